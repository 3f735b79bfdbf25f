"""Runs, one run, its batches, one batch."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from core.database import session_scope
from core.errors import UsageError
from models.tables_runs import BATCH_STATUSES
from services.run_control import replaced_by
from services.run_history import batch_history, batches_after, run_history
from services.runs import RunView, list_runs
from workers.web.plots import span_plot
from workers.web.site import Ask, parse_number

_RUNS, _BATCHES = 50, 50
_DONE = {
    "planned": "The run is planned. Its first batches begin with the next tick.",
    "cancel": "The run is cancelled: no batch of it is begun any more, and what is committed stays.",
    "pause": "The run is paused: batches in work end, and no other is begun.",
    "resume": "The run goes on.",
}
_LIVE = 2_000


def runs(ask: Ask) -> Response:
    """`/runs?before=ID`: the newest, or older ones."""
    before = ask.key("before")
    with session_scope(ask.site.engine) as session:
        found = list_runs(session, ask.now, _RUNS + 1, before=before)
    older = found[_RUNS - 1].id if len(found) > _RUNS else None
    return ask.page("runs.html", runs=found[:_RUNS], before=before, older=older)


def run(ask: Ask) -> Response:
    """`/runs/ID?after=SEQ&status=…`: one run, and a page of its batches."""
    query = ask.request.query_params
    after, status = ask.key("after"), query.get("status") or None
    if status is not None and status not in BATCH_STATUSES:
        raise UsageError(f"{status[:40]!a} is no status of a batch: {', '.join(BATCH_STATUSES)}")
    run_id = ask.number("run")
    with session_scope(ask.site.engine) as session:
        history = run_history(session, run_id, ask.now)
        batches = batches_after(
            session, run_id, after=-1 if after is None else after, status=status, limit=_BATCHES + 1
        )
        replaced = replaced_by(session, run_id) if history.run.kind == "reprocess" else None
    return ask.page(
        "run.html",
        history=history,
        run=history.run,
        replaced=replaced,
        batches=batches[:_BATCHES],
        following=batches[_BATCHES - 1].seq if len(batches) > _BATCHES else None,
        after=after,
        chosen=status,
        statuses=BATCH_STATUSES,
        plot=span_plot(history.spans),
        message=_message(query.get("did", ""), history.run),
        every=_LIVE,
    )


def _message(did: str, run: RunView) -> str | None:
    message = _DONE.get(did)
    if message is not None and did == "cancel" and run.kind == "nightly":
        return f"{message} Whoever it has not reached is brought up by the next night."
    return message


def run_live(ask: Ask) -> Response:
    """The part of a run's page that refreshes itself."""
    with session_scope(ask.site.engine) as session:
        history = run_history(session, ask.number("run"), ask.now)
    return ask.page("run_live.html", history=history, run=history.run, every=_LIVE)


def batch(ask: Ask) -> Response:
    """`/batches/ID`."""
    with session_scope(ask.site.engine) as session:
        history = batch_history(session, ask.number("batch"), ask.now)
    return ask.page("batch.html", history=history, batch=history.batch, run=history.run)


def find(ask: Ask) -> Response:
    """`/find`: a user, a simulation, a run or a batch by its number."""
    query = ask.request.query_params
    for kind, path in (("user", "users"), ("simulation", "simulations"), ("run", "runs"), ("batch", "batches")):
        number = query.get(kind, "").strip()
        if number:
            return RedirectResponse(f"/{path}/{parse_number(number, f'{{}} is no number of a {kind}')}", 303)
    return ask.page("find.html")
