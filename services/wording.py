"""Figures as people say them: a length of time, and one or many of something."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A length of time: 45 s, 12 min, 3 h 20 min, 2 days."""
    whole = max(round(seconds), 0)
    if whole < 120:
        return f"{whole} s"
    if whole < 7_200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400:,} days"


def counted(number: int, one: str, many: str) -> str:
    """A number with what is said of one, or of so many: "no message waits", "1 message waits", "2 messages wait"."""
    if number in (0, 1):
        return f"{number or 'no'} {one}"
    return f"{number:,} {many}"
