"""Plays the scenarios one after the other and takes the time: from the fault to the alert, from the cure to its end.

The times are those of Alertmanager, asked ten times a second, with the rules' times divided by `FASTER`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from benchmarks.alerts.scenario import Scenario
from benchmarks.alerts.scenarios import SCENARIOS
from benchmarks.alerts.site import FASTER, INTERVAL_SECONDS, Site, alert_site, wait_for
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from workers.monitoring import missing_programs

PREFIX = "Nightshift"
_ALONE_SECONDS = 15.0
Tell = Callable[[str], None]


@dataclass(slots=True)
class Fired:
    """What became of one alert.

    Attributes:
        provoked, cured: how, in words; `rows`: with rows of ours written directly.
        fired_s: seconds from the fault until Alertmanager had it; None: it never fired.
        cleared_s: seconds from the cure until Alertmanager had it no more; None: it never cleared.
        suppressed: Alertmanager had it only as what follows from another one.
        error: what went wrong with the scenario itself.
    """

    alert: str
    provoked: str
    cured: str
    rows: bool
    fired_s: float | None = None
    cleared_s: float | None = None
    suppressed: bool = False
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it fired and cleared."""
        return self.fired_s is not None and self.cleared_s is not None


def chosen_scenarios(only: Sequence[str]) -> list[Scenario]:
    """The scenarios of these alerts, with or without the prefix; all of them for none.

    Raises:
        UsageError: no scenario provokes one of them.
    """
    known = {name for scenario in SCENARIOS for name in scenario.alerts}
    wanted = {name.removeprefix(PREFIX) for name in only}
    for name in sorted(wanted - known):
        raise UsageError(f"--only: there is no alert {name!r}; there are {', '.join(sorted(known))}")
    return [scenario for scenario in SCENARIOS if not wanted or wanted & set(scenario.alerts)]


def measure_alerts(only: Sequence[str], *, settings: Settings, tell: Tell = lambda _: None) -> list[Fired]:
    """Provoke the alerts of `only`, or all of them, on a stack of its own; one entry for each alert.

    Raises:
        UsageError: `only` names what there is not, or Prometheus or Alertmanager is not installed.
        NightshiftError: the servers or the stack did not start.
    """
    scenarios = chosen_scenarios(only)
    if missing := missing_programs():
        raise UsageError("; ".join(missing))
    found: list[Fired] = []
    with alert_site(settings, tell) as site:
        for scenario in scenarios:
            tell(f"{', '.join(scenario.alerts)}: {scenario.how}")
            played = play(site, scenario)
            found += played
            for fired in played:
                tell(f"  {fired.alert}: {_said(fired)}")
    return found


def play(site: Site, scenario: Scenario) -> list[Fired]:
    """One scenario: wait until its alerts are quiet, break, wait until they fire, mend, wait until they clear."""
    fired = {name: Fired(name, scenario.how, scenario.cure, scenario.rows) for name in scenario.alerts}
    try:
        # A night that others left late is forgiven by the scenario itself.
        if not scenario.rows:
            wait_for(lambda: not set(_short(site)) & set(fired), "the end of what fired before")
        with scenario.provoke(site):
            _watch(site, fired, began=time.monotonic())
        _watch_end(site, fired, cured=time.monotonic())
    except NightshiftError as error:
        for each in fired.values():
            each.error = str(error)
    return list(fired.values())


def _watch(site: Site, fired: dict[str, Fired], *, began: float) -> None:
    def all_fire() -> bool:
        for name, state in _short(site).items():
            if (one := fired.get(name)) is None:
                continue
            if one.fired_s is None:
                one.fired_s = round(time.monotonic() - began, 1)
                one.suppressed = True
            one.suppressed = one.suppressed and state != "active"
        if any(one.fired_s is None for one in fired.values()):
            return False
        # What is suppressed at first may be told by itself a little later.
        alone = not any(one.suppressed for one in fired.values())
        return alone or time.monotonic() - began > _ALONE_SECONDS + max(one.fired_s or 0 for one in fired.values())

    # What has not fired then is told by the table.
    with suppress(NightshiftError):
        wait_for(all_fire, "the alert")


def _watch_end(site: Site, fired: dict[str, Fired], *, cured: float) -> None:
    def all_clear() -> bool:
        firing = _short(site)
        for name, one in fired.items():
            if name in firing:
                one.cleared_s = None
            elif one.cleared_s is None and one.fired_s is not None:
                one.cleared_s = round(time.monotonic() - cured, 1)
        return not set(firing) & set(fired)

    with suppress(NightshiftError):
        wait_for(all_clear, "the end of the alert")


def _short(site: Site) -> dict[str, str]:
    with suppress(httpx.HTTPError):
        return {name.removeprefix(PREFIX): state for name, state in site.firing().items()}
    return {}


def _said(fired: Fired) -> str:
    if fired.error is not None:
        return f"not provoked: {fired.error}"
    if fired.fired_s is None:
        return "did NOT fire"
    if fired.cleared_s is None:
        return f"fired after {fired.fired_s} s, did NOT clear"
    also = " (suppressed by what it follows from)" if fired.suppressed else ""
    return f"fired after {fired.fired_s} s, cleared after {fired.cleared_s} s{also}"


def pace() -> str:
    """In words, how much faster than in production it went."""
    return f"times of rules divided by {FASTER:g}, scrape and evaluation every {INTERVAL_SECONDS} s"
