"""`nightshift report` as a person meets it: the command line, and the pages in a browser without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.browser import Browser, browser
from tests.support.cli import Shell
from tests.support.html import parse
from tests.support.nights import LAST_SAMPLE_DAY, rows, scalar
from tests.support.report_world import BROKEN, HOSTILE, LATE, LEFT_OUT, NEW, last_run

KINDS = ("simulation", "run", "platform")
LOOKS = {"desktop": (1100, False), "dark": (1100, True), "phone": (375, False)}


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reported: Engine,
    redis_url: str,
) -> Shell:
    """Works with the reported platform, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", reported.url.render_as_string(hide_password=False))
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def subject(engine: Engine, kind: str) -> list[object]:
    """The options of a report with all there is; the simulation's user has a hostile name."""
    number = {"simulation": 1, "run": last_run(engine)}.get(kind)
    return [f"--{kind}"] if number is None else [f"--{kind}", number]


def test_a_page_and_its_figures(shell: Shell, reported: Engine, tmp_path: Path) -> None:
    for kind in KINDS:
        both = shell.ok("report", *subject(reported, kind), "--out", f"{kind}.html", "--json")
        assert f"wrote {kind}.html" in both.err
        page = parse((tmp_path / f"{kind}.html").read_text("utf-8"))
        assert page.named("svg")
        assert all(reference.startswith("#") for reference in page.references)
        assert shown(kind, both.json) <= set(page.texts), kind
    assert [entry.suffix for entry in tmp_path.iterdir() if entry.is_file()] == [".html"] * 3


def shown(kind: str, figures: dict[str, Any]) -> set[str]:
    """Some of the figures as the page writes them."""
    if kind == "simulation":
        last = figures["days"][-1]
        held = figures["benchmark"]["performance"]["total_return"]
        return {f"{float(last['equity']):,.2f}", f"{100 * last['total_return']:,.2f} %", f"{100 * held:,.2f} %"}
    if kind == "run":
        names = ("simulations", "rows", "trades", "quarantined")
        return {*(f"{figures['sums'][name]:,}" for name in names), figures["run"]["digest"]}
    return {
        f"{figures['users']:,}",
        f"{float(figures['total_equity']):,.2f}",
        *(s["strategy"] for s in figures["strategies"]),
    }


def test_the_figures_are_those_of_the_tables(shell: Shell, reported: Engine) -> None:
    own = shell.ok("report", "--simulation", 1, "--json").json
    equity, cash = rows(
        reported,
        "SELECT equity, cash FROM portfolio_history WHERE simulation_id = 1 AND day = :day",
        day=LAST_SAMPLE_DAY,
    )[0]
    assert (own["days"][-1]["equity"], own["days"][-1]["cash"]) == (f"{equity:f}", f"{cash:f}")
    trades = scalar(reported, "SELECT count(*) FROM trade_history WHERE simulation_id = 1")
    assert len(own["trades"]) == trades
    assert own["settings"]["user_name"] == HOSTILE
    run = shell.ok("report", "--run", last_run(reported), "--json").json
    assert run["run"] == shell.ok("runs", last_run(reported), "--json").json
    assert run["batches"] == shell.ok("batches", last_run(reported), "--json").json


def test_what_cannot_be_reported_is_one_line_or_a_sentence(shell: Shell, tmp_path: Path) -> None:
    assert "no simulation 999" in shell.refused("report", "--simulation", 999, "--json")
    assert f"no simulation {10**20}" in shell.refused("report", "--simulation", 10**20, "--json")
    assert "no run 999" in shell.refused("report", "--run", 999, "--out", "a.html")
    assert "--json" in shell.refused("report", "--platform")
    assert "one of --simulation or --run or --platform" in shell.refused("report", "--platform", "--run", 1, "--json")
    for number, said in (
        (NEW, "no night yet"),
        (BROKEN, "unknown_asset"),
        (LATE, "malformed"),
        (LEFT_OUT, "the whole user: error: " + HOSTILE),
    ):
        shell.ok("report", "--simulation", number, "--out", "a.html")
        assert any(said in text for text in parse((tmp_path / "a.html").read_text("utf-8")).texts), said


def test_a_report_replaces_a_report_and_nothing_else(shell: Shell, tmp_path: Path) -> None:
    page = tmp_path / "notes.html"
    page.write_text("my notes")
    assert "--force" in shell.refused("report", "--simulation", NEW, "--out", page)
    assert page.read_text() == "my notes"
    shell.ok("report", "--simulation", NEW, "--out", page, "--force")
    shell.ok("report", "--simulation", NEW, "--out", page)
    assert page.read_text().startswith("<!doctype html>")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("screenshots")) as opened:
        yield opened


_LOOK = """
const seen = element => element.getClientRects().length > 0;
const boxes = selector => [...document.querySelectorAll(selector)].filter(seen).map(e => e.getBoundingClientRect());
const apart = (a, b) => a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
const letters = [...document.querySelectorAll('svg text')].filter(seen);
return {
    overflow: document.documentElement.scrollWidth - innerWidth,
    plots: boxes('svg').length,
    figures: boxes('figure').length,
    covered: boxes('ul.legend').some(key => !boxes('svg').every(plot => apart(key, plot))),
    outside: letters.some(letter => {
        const a = letter.getBoundingClientRect(), b = letter.closest('svg').getBoundingClientRect();
        return a.left < b.left - 2 || a.right > b.right + 2 || a.bottom > b.bottom + 2 || a.top < b.top - 2;
    }),
    paper: getComputedStyle(document.body).backgroundColor,
    letters: letters.filter(letter => letter.getAttribute('transform').includes('rotate(-0'))
        .map(letter => letter.getBoundingClientRect().height),
    scripts: document.scripts.length,
    images: document.images.length,
};
"""


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_readable_everywhere(
    window: Browser, shell: Shell, reported: Engine, tmp_path: Path, kind: str
) -> None:
    page = tmp_path / f"{kind}.html"
    shell.ok("report", *subject(reported, kind), "--out", page)
    window.open(page.as_uri())
    assert window.errors() == []
    papers = set()
    for look, (width, dark) in LOOKS.items():
        window.emulate_dark(dark)
        window.set_window(width, 800)
        height = window.run_script("return document.documentElement.scrollHeight")
        assert isinstance(height, int)
        window.set_window(width, min(height, 4500))
        window.screenshot(f"report-{kind}-{look}")
        seen = window.run_script(_LOOK)
        assert isinstance(seen, dict)
        assert seen["overflow"] <= 0, look
        assert seen["plots"] == seen["figures"] > 1, look
        assert not seen["covered"], look
        assert not seen["outside"], look
        assert 10 <= min(seen["letters"]) <= max(seen["letters"]) <= 22, look
        assert (seen["scripts"], seen["images"]) == (0, 0)
        papers.add((dark, seen["paper"]))
    assert len(papers) == 2
    assert window.run_script("return document.title") != "broken"
    if kind != "platform":
        assert HOSTILE in str(window.run_script("return document.body.textContent"))
