"""The publisher: many messages in few round trips, and no doubt about what an error means.

Messages go out in pipelines of 500 commands, never retried here: after an error it is unknown how many arrived, so all
of them count as unpublished and are sent again, which costs a look at a row each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kombu.exceptions import KombuError, LimitExceeded
from kombu.exceptions import OperationalError as BrokerError
from redis import RedisError

from core import tracing
from core.errors import PublishError
from core.log import mask_secrets
from core.queues import Queue
from services.publishing import BatchMessage, ChunkMessage, Message
from tasks.messages import FETCH, MARK, REPROCESS, SIMULATE
from workers.celery_settings import PUBLISH_BATCH

if TYPE_CHECKING:
    from celery import Celery

_TASKS = {Queue.SIMULATIONS: SIMULATE, Queue.REPROCESS: REPROCESS}


class CeleryPublisher:
    """Publishes through the app's pool of producers. Safe to use from several threads."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(self, messages: Sequence[Message], /) -> None:
        """Send them all.

        Raises:
            PublishError: some may have arrived and some not.
        """
        if not messages:
            return
        try:
            self._send(messages)
        except (KombuError, BrokerError, LimitExceeded, RedisError, OSError) as error:
            # A failed batch says only that it failed; what Redis said is its cause.
            reason = mask_secrets(str(error.__cause__ or error)).splitlines()[:1] or [type(error).__name__]
            raise PublishError(
                f"Redis did not confirm {len(messages)} messages: {reason[0]}; they will be sent again"
            ) from error

    def _send(self, messages: Sequence[Message]) -> None:
        timeout = self._app.conf.broker_pool_acquire_timeout
        headers = tracing.headers()
        with self._app.producer_pool.acquire(block=True, timeout=timeout) as producer, producer.batch(PUBLISH_BATCH):
            for message in messages:
                task, queue, arguments = _call(message)
                self._app.tasks[task].apply_async(
                    kwargs=arguments, queue=queue.value, argsrepr=message.label, headers=headers, producer=producer,
                    retry=False,
                )  # fmt: skip


def _call(message: Message) -> tuple[str, Queue, dict[str, int | str]]:
    if isinstance(message, BatchMessage):
        return _TASKS[message.queue], message.queue, {"batch_id": message.batch_id}
    if isinstance(message, ChunkMessage):
        return FETCH, Queue.PRICES, {"chunk_id": message.chunk_id}
    return MARK, Queue.PRICES, {"window": message.window.isoformat()}
