"""Pages and plots: nothing from outside, nothing of a text but its letters, whole or not at all."""

from __future__ import annotations

import re
import threading
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.errors import UsageError
from scripts.page import Facts, Key, Notes, Page, Table, check_target, render, write_page
from scripts.page_text import exact, money, percent, seconds
from scripts.plots import COLOURS, amount
from scripts.plots_kinds import (
    Box,
    Marks,
    Span,
    bar_plot,
    box_plot,
    drawdown_plot,
    line_plot,
    span_plot,
    stack_plot,
    step_plot,
)
from tests.support.html import parse
from tests.support.report_world import HOSTILE

DAYS = [date(2024, 1, 1) + timedelta(days=number) for number in range(40)]
RISING = [float(number) for number in range(40)]


def every_plot(label: str) -> list[Any]:
    """One of each kind, with `label` wherever a text may stand."""
    many = {f"{label} {number}": (DAYS, [value + number for value in RISING]) for number in range(10)}
    return [
        line_plot(label, many, ylabel="units", marks=[Marks(label, "bad", "down", DAYS[:2], [1.0, 2.0])], note=label),
        drawdown_plot("falls", {label: (DAYS, [-value / 100 for value in RISING])}, note=label),
        stack_plot("positions", DAYS, {label: RISING, "cash": RISING}, ylabel="units"),
        bar_plot("bars", [label, "b"], [1.0, 2.0], ylabel="seconds"),
        step_plot("steps", [0.0, 1.0, 2.0], [3.0, 0.0], ylabel="users/s", xlabel="seconds"),
        span_plot("spans", [label, "2"], [Span(0, 0.0, 1.0, "c0"), Span(1, 0.5, 1.0, "bad")], xlabel="seconds",
                  keys=[Key(label, "bad", "fill")]),
        box_plot("boxes", [Box(label, (-0.2, -0.1, 0.0, 0.1, 0.3))], xlabel="return"),
    ]  # fmt: skip


def a_page(label: str) -> Page:
    blocks = [
        *every_plot(label),
        Table(label, [label, "amount>", "error+"], [[label, Decimal("1.5"), label], [None, 2, "x"]], note=label),
        Facts(label, [(label, label)]),
        Notes(label, [(label, label)]),
    ]
    return Page(label, label, [(label, label)], blocks, [label], label)


@pytest.fixture(scope="module")
def innocent() -> str:
    return render(a_page("plain"))


def test_a_page_refers_to_nothing_but_itself(innocent: str) -> None:
    page = parse(innocent)

    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {name for name, _ in page.tags}
    assert page.handlers == []
    assert re.search(r"https?:|//|@import|url\((?!#)", innocent.replace("</", "<")) is None
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(ids)


def test_hostile_texts_appear_as_text(innocent: str) -> None:
    page, hostile = parse(innocent), parse(render(a_page(HOSTILE)))

    assert [name for name, _ in hostile.tags] == [name for name, _ in page.tags]
    assert hostile.handlers == []
    # What stands on an axis is cut.
    assert sum(HOSTILE[:12] in text for text in hostile.texts) == sum("plain" in text for text in page.texts)
    assert sum(HOSTILE in text for text in hostile.texts) > 20
    assert any(figure["aria-label"] == HOSTILE for figure in hostile.named("svg"))


@pytest.mark.parametrize("label", ["$x$", r"\$", "_hidden", "#2f6db3", ' id="a"', "a\nb"])
def test_a_label_is_shown_letter_by_letter(label: str) -> None:
    svg = parse(str(bar_plot("bars", [label, "other"], [1.0, 2.0], ylabel="y").wide))
    assert label.replace("\n", "").strip() in "".join(svg.texts)


def test_every_colour_is_the_pages(innocent: str) -> None:
    light, dark = (re.findall(r"--(\w+): (#\w+);", part) for part in innocent.split("@media screen", 2)[:2])

    assert dict(light) == {**COLOURS, "card": "#f4f6f8"}
    assert [name for name, _ in dark] == [name for name, _ in light]
    plots = re.findall(r"<svg.*?</svg>", innocent, re.DOTALL)
    assert len(plots) == 14
    for svg in plots:
        assert re.findall(r"#[0-9a-f]{6}", svg) == []
        assert "var(--c0)" in svg
        assert "font-family" not in svg


@pytest.mark.parametrize("count", [1, 2, 6, 7, 45, 70, 400, 800, 1000, 4000])
def test_days_are_readable_however_many(count: int) -> None:
    days = [date(2020, 12, 30) + timedelta(days=number) for number in range(count)]
    values = [float(number % 7) for number in range(count)]
    plot = line_plot("c", {"a": (days, values)}, ylabel="y")
    for svg, most in ((plot.wide, 16), (plot.narrow, 8)):
        page = parse(str(svg))
        below = [text for text in page.named("text") if "middle" in text["style"] and "rotate(-0" in text["transform"]]
        assert 1 <= len(below) <= most
        assert not any(":" in text for text in page.texts)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-8, 9.2e10]])
def test_a_plot_of_little_or_much_does_not_fail(values: list[float]) -> None:
    days = DAYS[: len(values)]
    line_plot("c", {"a": (days, values)}, ylabel="y")
    stack_plot("c", days, {"cash": values}, ylabel="y")
    bar_plot("c", ["x"] * len(values), values, ylabel="y")
    drawdown_plot("c", {"a": (days, values)})


def test_how_figures_are_written() -> None:
    assert [amount(value) for value in (0, 0.25, 1250, 12_500, 3e6, 2.5e9, -12_500)] == [
        "0", "0.25", "1,250", "12.5 k", "3 M", "2.5 bn", "-12.5 k",
    ]  # fmt: skip
    assert [amount(value, 16_000) for value in (0, 8_000, 16_000)] == ["0", "8 k", "16 k"]
    assert [exact(Decimal(text)) for text in ("1250.50000000", "0.00000001", "3.00000000", "100")] == [
        "1,250.5", "0.00000001", "3", "100",
    ]  # fmt: skip
    assert [money(Decimal(text)) for text in ("1250.499", "0.00000001", "0", "-0.001")] == [
        "1,250.50", "0.00000001", "0.00", "-0.001",
    ]  # fmt: skip
    assert (exact(None), money(None), percent(None), seconds(None)) == (None, None, None, None)
    assert [seconds(value) for value in (0.012, 3.44, 125.0)] == ["12 ms", "3.4 s", "2 min 05 s"]
    assert percent(-0.12345) == "-12.35 %"


def test_a_file_that_is_no_report_is_left_alone(tmp_path: Path) -> None:
    report, other = tmp_path / "report.html", tmp_path / "notes.html"
    write_page(report, Page("one", "lead"))
    other.write_text("<!doctype html><title>mine</title>")

    assert check_target(report) == report
    assert check_target(other, force=True) == other
    for path, said in ((other, "--force"), (tmp_path, "directory"), (tmp_path / "no" / "a.html", "no directory")):
        with pytest.raises(UsageError, match=said):
            check_target(path)
    with pytest.raises(UsageError, match="no regular file"):
        check_target(Path("/dev/null"))


def test_a_page_is_replaced_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    pages = [Page(f"page {number}", "x" * 2_000_000) for number in range(2)]
    write_page(path, pages[0])
    over, seen = threading.Event(), set()

    def look() -> None:
        while not over.is_set():
            text = path.read_text("utf-8")
            assert text.endswith("</html>")
            seen.add(re.search("page [01]", text[:6000].split("<title>")[1]).group())  # type: ignore[union-attr]

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(12):
            write_page(path, pages[number % 2])
    finally:
        over.set()
        reader.join()
    assert seen <= {"page 0", "page 1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_page(path, Page("old", "lead"))
    old = path.read_text("utf-8")

    def full(self: Path, _data: str, **_: object) -> int:
        with self.open("w") as stream:
            stream.write("<!doc")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left"):
        write_page(path, Page("new", "lead"))
    assert path.read_text("utf-8") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
