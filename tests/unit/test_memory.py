"""What `keep_freed_memory` promises: a worker's arrays do not cost page faults again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

ROUNDS, BYTES = 50, 4 * 2**20
# Each round takes and frees blocks of the sizes that a batch works with. The first one may fault.
PROGRAM = f"""
import resource, sys
from workers.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    blocks = [bytearray(b"x") * 2**18 for _ in range({BYTES} // 2**18)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    pages = ROUNDS * BYTES // 4096
    kept = faults("kept")
    if platform.libc_ver()[0] == "glibc":
        assert kept < pages / 20
        # Without it each round faults again, or this test would show nothing.
        assert faults("given back") > pages / 2
