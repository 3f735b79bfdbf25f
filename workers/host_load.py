"""How busy this process' host is: shares of CPU and memory in use, and what is free, within a container's limits.

A container's own limits (cgroups 2 and 1) go before the machine's: what lies beyond them is not for us. Of the two the
fuller one counts, because a container may also be promised more than its machine has left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from celery import bootsteps

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # version 1 writes about so many bytes for no limit
_SHORTEST = 1.0  # seconds; a share of less time is noise


@dataclass(frozen=True, slots=True)
class HostLoad:
    """Shares in use, 0 to 1, over the seconds since the look before; free cores, a fraction too; free memory, bytes."""

    cpu: float
    free_cores: float
    memory: float
    free_memory: int


class HostMeter:
    """Looks; made once a process. The first look sees what has passed since it was made."""

    def __init__(self, root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> None:
        self._cgroup = _Cgroup(root, membership)
        self._before = self._read()
        self._load: HostLoad | None = None

    def look(self) -> HostLoad:
        """The load; that of the look before if hardly any time has passed since."""
        now = self._read()
        seconds = now.moment - self._before.moment
        if self._load is not None and seconds < _SHORTEST:
            return self._load
        cores = float(psutil.cpu_count() or 1)
        cpu = min((now.busy - self._before.busy) / ((now.total - self._before.total) or 1.0), 1.0)
        free_cores = cores * (1 - cpu)
        limit = self._cgroup.cores()
        if limit is not None and now.used is not None and self._before.used is not None:
            used = (now.used - self._before.used) / max(seconds, 0.001)
            cpu, free_cores = min(max(cpu, used / limit), 1.0), min(free_cores, max(limit - used, 0.0))
        memory, free_memory = self._memory()
        self._before, self._load = now, HostLoad(cpu, free_cores, memory, free_memory)
        return self._load

    def _memory(self) -> tuple[float, int]:
        machine = psutil.virtual_memory()
        share, free = 1 - machine.available / machine.total, machine.available
        limit, used = self._cgroup.memory()
        if limit is not None and limit < machine.total:
            share, free = max(share, min(used / limit, 1.0)), min(free, max(limit - used, 0))
        return share, free

    def _read(self) -> _Reading:
        times = psutil.cpu_times()
        # What a guest uses is in the user's time too.
        spent = times._asdict()
        total = sum(spent.values()) - spent.get("guest", 0.0) - spent.get("guest_nice", 0.0)
        return _Reading(time.monotonic(), total - times.idle - spent.get("iowait", 0.0), total, self._cgroup.used())


class HostLoadStep(bootsteps.StartStopStep):
    """Tells the load of a worker's host in Celery's `stats`: whoever asks who is there learns it by the way."""

    label = "HostLoad"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._meter = HostMeter()

    def info(self, worker: Any) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Part of `stats`."""
        load = self._meter.look()
        return {"host": {"cpu": round(load.cpu, 3), "memory": round(load.memory, 3)}}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Seconds: of a clock; of all cores, busy and in all; of CPU that the container used."""

    moment: float
    busy: float
    total: float
    used: float | None


class _Cgroup:
    """The container's limits and use. None where there is no container, or nothing is limited."""

    def __init__(self, root: Path, membership: Path) -> None:
        lines = _text(membership).splitlines()
        self._paths = {names: path for _, names, path in (line.split(":", 2) for line in lines if line.count(":") > 1)}
        self._root = root

    def cores(self) -> float | None:
        limits = []
        for directory in self._directories(""):
            quota, _, period = _text(directory / "cpu.max").partition(" ")
            if quota.isdigit():
                limits.append(int(quota) / int(period))
        for directory in self._directories("cpu"):
            quota, period = _text(directory / "cpu.cfs_quota_us"), _text(directory / "cpu.cfs_period_us")
            if quota.isdigit():
                limits.append(int(quota) / int(period))
        return min(limits, default=None)

    def used(self) -> float | None:
        for directory in self._directories(""):
            for line in _text(directory / "cpu.stat").splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
        for directory in self._directories("cpuacct"):
            if (spent := _text(directory / "cpuacct.usage")).isdigit():
                return int(spent) / 1e9
        return None

    def memory(self) -> tuple[int | None, int]:
        """Limit, and what is in use beside files that would go for it; bytes. That of the fullest that has a limit."""
        files = {
            "": ("memory.max", "memory.current", "inactive_file "),
            "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
        }
        found = [_limit(place, *names) for tree, names in files.items() for place in self._directories(tree)]
        limited = [(limit, used) for limit, used in found if limit is not None]
        return max(limited, key=lambda its: its[1] / its[0], default=(None, 0))

    def _directories(self, controller: str) -> Iterator[Path]:
        """Ours and those above; "" is the one tree of version 2. In a container the innermost one is the root."""
        for names, path in self._paths.items():
            if controller == names or controller in names.split(","):
                tree = self._root / names if names else self._root
                place = tree / path.strip("/")
                yield from (above for above in (place, *place.parents) if above == tree or tree in above.parents)


def _limit(directory: Path, limit: str, current: str, cache: str) -> tuple[int | None, int]:
    written, used = _text(directory / limit), _text(directory / current)
    if not written.isdigit() or not used.isdigit() or int(written) >= _UNLIMITED:
        return None, 0
    files = sum(
        int(line.split()[1]) for line in _text(directory / "memory.stat").splitlines() if line.startswith(cache)
    )
    return int(written), max(int(used) - files, 0)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip()
    return ""
