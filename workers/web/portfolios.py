"""One user and one simulation, with what they were worth."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from core.database import session_scope
from services.simulation_history import days_before, simulation_history, trades_of
from services.user_history import simulations_after, user_history
from workers.web.plots import line_plot
from workers.web.site import Ask

_SIMULATIONS, _DAYS = 50, 30


def user(ask: Ask) -> Response:
    """`/users/ID?after=SIMULATION`."""
    user_id, after = ask.number("user"), ask.key("after")
    with session_scope(ask.site.engine) as session:
        history = user_history(session, user_id)
        simulations = simulations_after(session, user_id, history.newest, after=after or 0, limit=_SIMULATIONS + 1)
    points = [(day, float(equity)) for day, equity in history.equity]
    return ask.page(
        "user.html",
        history=history,
        user=history.user,
        simulations=simulations[:_SIMULATIONS],
        following=simulations[_SIMULATIONS - 1].id if len(simulations) > _SIMULATIONS else None,
        after=after,
        plot=line_plot(points, what="Equity of all simulations"),
    )


def simulation(ask: Ask) -> Response:
    """`/simulations/ID?before=DAY`."""
    simulation_id, before = ask.number("simulation"), ask.day("before")
    with session_scope(ask.site.engine) as session:
        history = simulation_history(session, simulation_id)
        newest = history.line[-1][0] if history.line else None
        days = []
        if before is not None or newest is not None:
            first_before = before or (newest + timedelta(days=1) if newest else ask.now.date())
            days = days_before(session, history.settings, before=first_before, limit=_DAYS)
        trades = trades_of(session, history.settings, [line.day for line in days[:_DAYS]])
    points = [(day, float(equity)) for day, equity in history.line]
    return ask.page(
        "simulation.html",
        history=history,
        settings=history.settings,
        newest=history.newest,
        plot=line_plot(points, what="Equity", reference=float(history.settings["initial_cash"])),
        days=days[:_DAYS],
        trades=trades,
        older=days[_DAYS - 1].day if len(days) > _DAYS else None,
        before=before,
    )
