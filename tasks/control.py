"""Queue `control`: beat's tick."""

from __future__ import annotations

from celery import shared_task

from core.log import get_logger
from schedules.beat import TICK
from services.scaling_inputs import decide
from services.tick import tick as run_tick
from tasks.context import process_context
from tasks.results import Shown

log = get_logger(__name__)


@shared_task(name=TICK)
def tick() -> Shown:
    """Plan what is due, publish it, bring back what is lost, finish what is complete; say how many workers to have."""
    here = process_context()
    result = run_tick(here.engine, here.publish, now=here.clock(), settings=here.settings)
    if result.ran:
        decide(here.engine, here.redis_url, now=here.clock(), settings=here.settings)
    log.info("tick", result=result.summary())
    return Shown(result.summary())
