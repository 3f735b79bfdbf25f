"""Queue `control`: users whom somebody else's program registers."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from core.database import session_scope
from services.users import NewUser
from services.users import register as register_user
from tasks.context import process_context
from tasks.messages import REGISTER


@shared_task(name=REGISTER)
def register(**request: Any) -> None:
    """Make a user, once for each key."""
    here = process_context()
    with session_scope(here.engine) as session:
        register_user(session, NewUser.model_validate(request), now=here.clock(), settings=here.settings)
