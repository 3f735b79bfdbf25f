"""Kombu's Redis transport with a door: what is no message of ours never reaches Celery.

The door stands where the bytes arrive, in the reply of BRPOP, so that nothing is parsed, recorded as unacknowledged or
restored that was not checked. A refused entry looks like an empty queue: the consumer just asks again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis import RedisError

from core.log import get_logger
from core.queues import Queue
from core.settings import Settings
from services.queue_state import count_dropped
from workers.door import Refused, envelope_refusal, refusal

log = get_logger(__name__)
_SHOWN_BYTES = 200


class Client(kombu_redis.PrefixedStrictRedis):
    """The client that waits for messages. `channel` is the one it works for."""

    def __init__(self, *args: Any, channel: Channel, **kwargs: Any) -> None:
        self._channel = channel
        super().__init__(*args, **kwargs)

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Redis' reply; None, which is what an empty queue says, if it is an entry that the channel refuses."""
        reply = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and reply and self._channel.refuses(*reply):
            return None
        return reply


class Channel(kombu_redis.Channel):
    """A channel that counts and drops what the door refuses."""

    message_max_bytes: int = Settings.model_fields["message_max_bytes"].default
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "message_max_bytes")

    def refuses(self, key: bytes, item: bytes) -> bool:
        """Whether the entry `item` of the list `key` is dropped."""
        queue = key.decode("utf-8", "replace").rsplit(self.sep, 1)[0]
        # Other lists are those of remote control: a worker's answers, which may be long.
        refused = refusal(item, self.message_max_bytes) if queue in set(Queue) else None
        if refused is not None:
            self._drop(queue, refused, item)
        return refused is not None

    def _get_client(self) -> Any:
        super()._get_client()  # checks the version of redis-py
        return partial(Client, channel=self, global_keyprefix=self.global_keyprefix)

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        refused = envelope_refusal(message)
        if refused is None:
            return super()._deliver_fanout_message(message, exchange)
        self._drop(exchange, refused, repr(message).encode())
        return True

    def _drop(self, queue: str, refused: Refused, item: bytes) -> None:
        begins = item[:_SHOWN_BYTES].decode("utf-8", "replace")
        log.warning(
            "message dropped", queue=queue, reason=refused.reason.value, detail=refused.detail, begins=begins,
            bytes=len(item),
        )  # fmt: skip
        try:
            with self.conn_or_acquire() as client:
                count_dropped(client, refused.reason)
        except RedisError as error:
            # The message is gone either way; the worker goes on.
            log.warning("dropped message not counted", error=type(error).__name__)


class Transport(kombu_redis.Transport):
    """The transport that `install` puts behind redis:// and rediss://."""

    Channel = Channel


def install() -> None:
    """Make redis:// and rediss:// mean this transport, for every connection that kombu makes in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "workers.transport:Transport"
