"""The page of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from scripts.page import Block, Facts, Key, Page, Plot, Table
from scripts.page_text import days, money, percent, seconds
from scripts.plots_kinds import Span, bar_plot, span_plot, step_plot
from services.report_run import RunFigures, Spread, WorkerShare, stage_seconds
from services.runs import BatchView, RunView

MOST_BATCHES, MOST_SLOWEST, MOST_SPANS = 200, 10, 2_000
_COLOURS = {"done": "c0", "retried": "c3", "split": "c1", "failed": "bad"}
_OVER = ("done", "split", "failed")


def run_page(data: RunFigures) -> Page:
    """Throughput, the batches by worker, what was slow, what was tried again, what failed and who was left out."""
    run = data.run
    facts = [
        ("status", run.status),
        ("users done", f"{run.users_done:,} of {run.users:,}"),
        ("duration", seconds(run.seconds)),
        ("users/s", run.users_per_second and f"{run.users_per_second:,.0f}"),
        ("simulations", data.sums["simulations"]),
        ("portfolio days", data.sums["rows"]),
        ("trades", data.sums["trades"]),
        ("fees", _units(data.sums["total_fees"])),
        ("equity", _units(data.sums["total_equity"])),
        ("quarantined", data.sums["quarantined"]),
        ("digest", run.digest),
    ]
    numbers = {share.worker: at for at, share in enumerate(data.workers)}
    blocks: list[Block] = [
        *_throughput(data),
        *_gantt(data.batches, numbers, _origin(data.batches)),
        *([_workers(data.workers)] if data.workers else []),
        *_stages(data.stages),
        _durations(data),
        _slowest(data.batches, numbers),
        *_troubles(data.batches, numbers),
        *_quarantine(data),
        _batches(data.batches, numbers, run.id),
        Facts("The request", _request(data)),
    ]
    lead = f"{run.kind}, {days(run.first_day, run.day)}, by {run.requested_by}"
    return Page(f"Run {run.id}", lead, facts, blocks, _warnings(data), _foot(run))


def _foot(run: RunView) -> str:
    if run.status == "missed":
        return "It never began."
    if run.finished_at is None:
        return "Not finished: these are the figures so far."
    return f"Finished {run.finished_at:%Y-%m-%d %H:%M:%S} UTC."


def _warnings(data: RunFigures) -> list[str]:
    run = data.run
    said = [f"The run says: {run.error}"] if run.error else []
    if run.status in ("planned", "running"):
        said.append(f"This run is {'paused' if run.paused else run.status}: its figures are those so far.")
    if run.status == "missed":
        said.append(
            "This night was given up: its day was further back than NIGHTSHIFT_CATCH_UP_DAYS when its turn came."
            " The next night brings the portfolios over it."
        )
    elif not data.batches:
        said.append("It has no batches: there was nobody to advance.")
    if data.differing:
        said.append(f"The sums over the batches differ from the run's row: {', '.join(data.differing)}.")
    return said


def _units(value: int | Decimal) -> str | None:
    return money(Decimal(value))


def _request(data: RunFigures) -> list[tuple[str, object]]:
    run = data.run
    return [
        ("kind", run.kind),
        ("days", days(run.first_day, run.day)),
        ("asked for by", run.requested_by),
        ("reason", run.reason),
        ("scope", _scope(data.scope)),
        ("created", run.created_at),
        ("started", run.started_at),
        ("finished", run.finished_at),
        ("users a batch", run.batch_users),
    ]


def _scope(scope: Mapping[str, object]) -> str:
    named = {name: value for name, value in scope.items() if value and name != "all"}
    return json.dumps(named, ensure_ascii=False) if named else "everybody"


def _throughput(data: RunFigures) -> list[Plot]:
    if not data.throughput:
        return []
    edges = [data.throughput[0].start, *(part.end for part in data.throughput)]
    speeds = [part.users_per_second for part in data.throughput]
    return [step_plot("Throughput", edges, speeds, ylabel="users/s", xlabel="seconds since the first batch began")]


def _origin(batches: Sequence[BatchView]) -> datetime | None:
    return min((batch.started_at for batch in batches if batch.started_at and batch.finished_at), default=None)


def _gantt(batches: Sequence[BatchView], numbers: Mapping[str, int], origin: datetime | None) -> list[Plot]:
    """When each worker worked on which batch: the last attempt of each."""
    worked = [batch for batch in batches if batch.status in _OVER and batch.seconds is not None and batch.worker]
    if origin is None or not any(batch.seconds for batch in worked):
        return []
    spans = [
        Span(
            numbers[batch.worker or ""],
            (batch.started_at - origin).total_seconds() if batch.started_at else 0.0,
            batch.seconds or 0.0,
            _COLOURS[_look(batch)],
        )
        for batch in worked[:MOST_SPANS]
    ]
    seen = {_look(batch) for batch in worked[:MOST_SPANS]}
    keys = [Key(name, colour, "fill") for name, colour in _COLOURS.items() if name in seen]
    note = "A row for each worker, numbered as in the table below; of a batch that was tried again, the last attempt."
    if len(worked) > MOST_SPANS:
        note += f" The first {MOST_SPANS:,} of {len(worked):,} batches."
    rows = [str(number + 1) for number in numbers.values()]
    caption, xlabel = "Batches by worker", "seconds since the first batch began"
    return [span_plot(caption, rows, spans, xlabel=xlabel, keys=keys, note=note)]


def _look(batch: BatchView) -> str:
    return "retried" if batch.status == "done" and batch.attempts > 1 else batch.status


def _workers(workers: Sequence[WorkerShare]) -> Table:
    rows = [
        (number, share.worker, share.batches, share.users, seconds(share.seconds), percent(share.busy))
        for number, share in enumerate(workers, 1)
    ]
    columns = ["number>", "worker", "batches>", "users done>", "busy>", "of the run>"]
    return Table("Workers", columns, rows)


def _stages(stages: Mapping[str, float]) -> list[Plot]:
    total = sum(stages.values())
    if not total:
        return []
    shares = ", ".join(f"{stage} {100 * value / total:.0f} %" for stage, value in stages.items())
    caption = "Where the time went"
    note = f"Of all batches that are done, together {seconds(total)}: {shares}."
    return [bar_plot(caption, list(stages), list(stages.values()), ylabel="seconds", note=note)]


def _durations(data: RunFigures) -> Facts:
    def shown(spread: Spread | None) -> str | None:
        if spread is None:
            return None
        return f"{seconds(spread.median)} · {seconds(spread.p95)} · {seconds(spread.largest)}"

    return Facts(
        "Batches",
        [
            *((status, count) for status, count in sorted(data.states.items())),
            ("attempts", data.attempts),
            ("tried again", data.retried),
            ("published again", data.published_again),
            ("duration: median · 95 % · most", shown(data.durations)),
            ("wait in the queue: median · 95 % · most", shown(data.queue_wait)),
        ],
    )


def _worker(batch: BatchView, numbers: Mapping[str, int]) -> str | None:
    """Its number, for names of workers are long."""
    number = numbers.get(batch.worker or "")
    return batch.worker if number is None else str(number + 1)


def _slowest(batches: Sequence[BatchView], numbers: Mapping[str, int]) -> Table:
    done = sorted((b for b in batches if b.status == "done" and b.seconds is not None), key=lambda b: -(b.seconds or 0))
    rows = [
        (
            str(b.id), _users(b), b.users, seconds(b.seconds), b.rows, b.trades,
            f"{b.users / b.seconds:,.0f}" if b.seconds else None, _worker(b, numbers),
            ", ".join(f"{name} {seconds(value)}" for name, value in stage_seconds([b]).items()),
        )
        for b in done[:MOST_SLOWEST]
    ]  # fmt: skip
    columns = ["batch>", "users", "count>", "duration>", "rows>", "trades>", "users/s>", "worker", "stages+"]
    return Table("Slowest batches", columns, rows, note="" if rows else "No batch is done.")


def _troubles(batches: Sequence[BatchView], numbers: Mapping[str, int]) -> list[Table]:
    """Batches that were tried again, divided or given up; none where all went well."""
    kinds = (
        ("Failed", [b for b in batches if b.status == "failed"]),
        ("Divided, because a user in them was suspected", [b for b in batches if b.status == "split"]),
        ("Tried again", [b for b in batches if b.attempts > 1 and b.status not in ("failed", "split")]),
    )
    columns = ["batch>", "of", "users", "status", "attempts>", "worker", "error+"]
    return [
        Table(
            caption,
            columns,
            [
                (str(b.id), str(b.parent_id or "–"), _users(b), b.status, b.attempts, _worker(b, numbers), b.error)
                for b in found[:MOST_BATCHES]
            ],
            _more(len(found), MOST_BATCHES),
        )
        for caption, found in kinds
        if found
    ]


def _quarantine(data: RunFigures) -> list[Table]:
    if not data.quarantined:
        return []
    count = sum(data.quarantined.values())
    entries = [(str(e.user_id), str(e.simulation_id or "all"), e.day, e.reason, e.detail) for e in data.entries]
    return [
        Table("Quarantined by this run, by reason", ["reason", "entries>"], list(data.quarantined.items())),
        Table(
            "Quarantined by this run",
            ["user>", "simulation>", "day", "reason", "detail+"],
            entries,
            _more(count, len(entries), "nightshift quarantine lists those that still are."),
        ),
    ]


def _batches(batches: Sequence[BatchView], numbers: Mapping[str, int], run_id: int) -> Table:
    columns = ["batch>", "users", "status", "attempts>", "duration>", "rows>", "trades>", "quarantined>", "worker"]
    rows = [
        (
            str(b.id),
            _users(b),
            b.status,
            b.attempts,
            seconds(b.seconds),
            b.rows,
            b.trades,
            b.quarantined,
            _worker(b, numbers),
        )
        for b in batches[:MOST_BATCHES]
    ]
    note = _more(len(batches), len(rows), f"nightshift batches {run_id} lists all.")
    return Table("All batches", columns, rows, note)


def _more(count: int, shown: int, where: str = "") -> str:
    return f"The first {shown:,} of {count:,}. {where}".strip() if count > shown else ""


def _users(batch: BatchView) -> str:
    return f"{batch.user_lo}–{batch.user_hi - 1}"
