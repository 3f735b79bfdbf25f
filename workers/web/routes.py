"""All addresses of the status page, on one screen."""

from __future__ import annotations

from anyio import CapacityLimiter
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from core.errors import UsageError
from workers.web import (
    actions,
    logins,
    night,
    portfolios,
    prices,
    quarantine,
    reprocess,
    runs,
    trail,
    unsubscribe,
)
from workers.web.access import Access
from workers.web.site import Ask, Site, action, page


def page_routes(site: Site) -> list[BaseRoute]:
    """The pages and the actions."""
    # A password takes 64 MiB and a core to check, and the limits count failures one after the other.
    one_at_a_time = CapacityLimiter(1)
    return [
        page(site, "/", night.show),
        page(site, "/night/live", night.live, Access.LIVE),
        page(site, "/runs", runs.runs),
        page(site, "/runs/{run}", runs.run),
        page(site, "/runs/{run}/live", runs.run_live, Access.LIVE),
        page(site, "/batches/{batch}", runs.batch),
        page(site, "/find", runs.find),
        page(site, "/quarantine", quarantine.quarantine),
        page(site, "/users/{user}", portfolios.user),
        page(site, "/simulations/{simulation}", portfolios.simulation),
        page(site, "/prices", prices.prices),
        page(site, "/audit", trail.audit, Access.ACT),
        page(site, "/reprocess", reprocess.form, Access.ACT),
        action(site, "/reprocess", reprocess.look),
        action(site, "/reprocess/confirm", reprocess.confirm),
        action(site, "/runs/{run}/cancel", actions.cancel),
        action(site, "/runs/{run}/pause", actions.pause),
        action(site, "/runs/{run}/resume", actions.resume),
        action(site, "/quarantine/retry", actions.retry),
        page(site, "/login", logins.form, Access.PUBLIC),
        action(site, "/login", logins.enter, Access.FORM, limiter=one_at_a_time),
        action(site, "/logout", logins.leave, Access.FORM),
        page(site, "/unsubscribe", unsubscribe.question, Access.PUBLIC),
        action(site, "/unsubscribe", unsubscribe.answer, Access.PUBLIC),
        Route("/static/{name}", site.renderer.static, methods=["GET"]),
        page(site, "/{anything:path}", _nowhere),
    ]


def _nowhere(_: Ask) -> Response:
    raise UsageError("there is no such page")
