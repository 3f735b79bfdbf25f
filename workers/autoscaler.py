"""Grows and shrinks the pool of one worker: by the same function as the number of workers, and only where room is.

Celery's setting `worker_autoscaler` names it; it comes to life with `--autoscale MAX,MIN`, which `nightshift up` gives
if `NIGHTSHIFT_WORKERS_MAX` is set. A process more needs a free core and the free memory of a process with the market
that there is; where either is missing, the pool stays, however much waits.

It runs in the worker's event loop. A look asks Redis for a few lengths, within a second, and at most once a second.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import redis
from celery.worker import autoscale, state
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.clock import utc_now
from core.log import get_logger
from core.queues import Queue
from core.settings import get_settings
from services.queue_state import queue_lengths
from services.scaling import Decision, Signals, State, wanted
from services.scaling_inputs import limits_of
from workers.host_load import HostLoad, HostMeter
from workers.process_memory import known_assets, most_memory

log = get_logger(__name__)

LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 1.0
_REMEMBERED_SECONDS = 300.0


class Autoscaler(autoscale.Autoscaler):
    """Celery's, with another judgement. The pool's size is the state's, so the limits of both are the same."""

    def __init__(self, pool: Any, max_concurrency: int, min_concurrency: int = 0, **options: Any) -> None:
        # Celery looks at every message, and else once in `keepalive` seconds.
        super().__init__(pool, max_concurrency, min_concurrency, **options | {"keepalive": LOOK_SECONDS})
        self._settings = get_settings()
        self._limits = limits_of(self._settings)
        self._meter = HostMeter()
        self._pace = Pace()
        self._state = State(max(min_concurrency, 1))
        self._reason = "it has not looked yet"
        self._looked = -math.inf
        self._redis: redis.Redis | None = None

    def host(self) -> HostLoad:
        """How busy the host is."""
        return self._meter.look()

    def info(self) -> dict[str, Any]:
        """Part of `celery inspect stats`: why the pool is as large as it is, too."""
        return {**super().info(), "reason": self._reason}

    def maybe_scale(self, req: Any = None) -> None:
        """Look, decide and do it; Celery calls this for each message and once in a while."""
        if req is not None:
            self.on_task_received(req)
        if time.monotonic() - self._looked < LOOK_SECONDS or getattr(self.worker, "consumer", None) is None:
            return
        self._looked = time.monotonic()
        self._take_no_more_than_it_can()
        load, processes = self.host(), self.processes
        signals = self._signals(load)
        if signals is None:
            return
        # Both may be changed by Celery's remote control.
        least = max(self.min_concurrency, 1)
        limits = replace(self._limits, minimum=least, maximum=max(self._most(load, processes), least))
        decision = wanted(replace(self._state, workers=processes), signals, limits, utc_now())
        self._state, self._reason = decision.state, decision.reason
        if decision.workers != processes:
            self._resize(decision, processes)

    def _resize(self, decision: Decision, processes: int) -> None:
        if decision.workers > processes:
            self.pool.grow(decision.workers - processes)
        else:
            self._shrink(processes - decision.workers)
        self.pool.maintain_pool()
        self._take_no_more_than_it_can()
        if self.processes != processes:
            # `at`: that of the decision, however late this line is written.
            log.info("pool resized", processes=self.processes, before=processes, reason=decision.reason,
                     at=str(decision.state.changed))  # fmt: skip

    def _signals(self, load: HostLoad) -> Signals | None:
        """What waits in the worker's queues; None if Redis does not say."""
        queues = [Queue(name) for name in self.worker.app.amqp.queues.consume_from]
        try:
            lengths = queue_lengths(self._client())
        except redis.RedisError as error:
            log.warning("pool stays as it is, because Redis does not answer", error=type(error).__name__)
            return None
        self._pace.look(time.monotonic(), len(state.active_requests), sum(state.total_count.values()))
        return Signals(
            waiting=sum(lengths[queue] for queue in queues),
            at_work=len(state.reserved_requests),
            seconds=self._pace.seconds,
            cpu=load.cpu,
            memory=load.memory,
        )

    def _most(self, load: HostLoad, processes: int) -> int:
        """How many processes there is room for; those that are there have theirs."""
        process_bytes = most_memory(self._settings, known_assets())
        room = math.floor(min(load.free_cores, load.free_memory / process_bytes))
        most = processes if load.memory > self._limits.memory else processes + room
        return min(most, int(self.max_concurrency))

    def _take_no_more_than_it_can(self) -> None:
        """Messages that wait in this worker are missing to others: take as many as there are processes.

        Celery would take as many as there may ever be.
        """
        consumer = self.worker.consumer
        missing = self.processes - consumer.initial_prefetch_count // consumer.prefetch_multiplier
        if missing and consumer.qos is not None:
            consumer._update_prefetch_count(missing)  # noqa: SLF001 - as Celery's own does

    def _client(self) -> redis.Redis:
        if self._redis is None:
            # After the first fork: no process of the pool inherits the connection in use.
            self._redis = redis.Redis.from_url(
                self.worker.app.conf.broker_url, socket_timeout=_ANSWER_SECONDS,
                socket_connect_timeout=_ANSWER_SECONDS, retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
        return self._redis


class Pace:
    """How long a process takes for a message, from how many were in work and how many came to work between two looks.

    Older looks count less; what was five minutes ago, a third.
    """

    def __init__(self) -> None:
        self._looked: tuple[float, int, int] | None = None
        self._busy = self._begun = 0.0

    @property
    def seconds(self) -> float | None:
        """Process seconds a message; None before the first was measured."""
        return self._busy / self._begun if self._begun else None

    def look(self, moment: float, active: int, begun: int) -> None:
        """`active`: messages in work now; `begun`: how many ever came to work. `moment`: seconds of some clock."""
        if self._looked is not None:
            before, was_active, had_begun = self._looked
            passed = moment - before
            kept = math.exp(-passed / _REMEMBERED_SECONDS)
            self._busy = self._busy * kept + (active + was_active) / 2 * passed
            self._begun = self._begun * kept + begun - had_begun
        self._looked = moment, active, begun
