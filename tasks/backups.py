"""Queue `maintenance`: backups. One takes as long as the database is large, so a worker of its own should serve it."""

from __future__ import annotations

from celery import shared_task

from core.log import get_logger
from schedules.beat import BACK_UP
from tasks.context import process_context
from tasks.results import Shown

log = get_logger(__name__)

_HOURS = 6


# A message that comes again meanwhile, after the visibility timeout, finds one at work.
@shared_task(name=BACK_UP, soft_time_limit=_HOURS * 3600 - 60, time_limit=_HOURS * 3600)
def back_up() -> Shown:
    """Make a backup if one is due, and verify the newest unless it is."""
    from services.backup_keeping import keep_backups  # noqa: PLC0415 - encryption, which a worker of nights never needs
    from services.backups import Backups  # noqa: PLC0415 - the same

    here = process_context()
    url = here.engine.url.render_as_string(hide_password=False)
    done = keep_backups(Backups(url, here.settings, here.clock), here.scratch())
    log.info("backups", result=done)
    return Shown(done)
