"""The fault schedule: a pure function of the seed.

Faults are dealt like cards: all kinds are shuffled, dealt to consecutive seeds until none is left, and shuffled anew.
So any 50 consecutive seeds see every kind often, whatever the dice say. When a fault strikes is a share of the work
done, not a time: on a slow machine and on a fast one it meets the same night.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

FAULTS = 6
_PPM = 10**6


class Kind(StrEnum):
    """What is broken."""

    KILL_POOL_CHILD = "kill_pool_child"
    KILL_WORKER_GROUP = "kill_worker_group"
    KILL_CONTROL = "kill_control"
    KILL_BEAT = "kill_beat"
    KILL_EXPORTER = "kill_exporter"
    KILL_FLOWER = "kill_flower"
    STOP_POOL_CHILD = "stop_pool_child"
    STOP_WORKER_GROUP = "stop_worker_group"
    REDIS_KILL = "redis_kill"
    REDIS_KILL_WITHOUT_AOF = "redis_kill_without_aof"
    REDIS_FLUSHALL = "redis_flushall"
    REDIS_OUT_OF_MEMORY = "redis_out_of_memory"
    REDIS_PAUSE = "redis_pause"
    POSTGRES_KILL = "postgres_kill"
    POSTGRES_RESTART = "postgres_restart"
    POSTGRES_TERMINATE = "postgres_terminate_backends"
    POSTGRES_LOCK = "postgres_lock"
    LATENCY = "latency"
    HALF_OPEN = "half_open"
    CUT = "cut"
    DUPLICATES = "duplicate_messages"
    MALFORMED = "malformed_messages"
    POISON_EXCEPTION = "poison_exception"
    POISON_SEGFAULT = "poison_segfault"
    POISON_MEMORY = "poison_memory"
    POISON_HANG = "poison_hang"
    CRASH_BEFORE_CLAIM = "crash_before_claim"
    CRASH_AFTER_CLAIM = "crash_after_claim"
    CRASH_AFTER_READ = "crash_after_read"
    CRASH_BEFORE_COPY = "crash_before_copy"
    CRASH_AFTER_COPY = "crash_after_copy"
    CRASH_BEFORE_DONE = "crash_before_done"
    CRASH_BEFORE_COMMIT = "crash_before_commit"
    CRASH_AFTER_COMMIT = "crash_after_commit"
    CRASH_BEFORE_ACK = "crash_before_ack"
    CRASH_BEFORE_PUBLISH = "crash_before_publish"
    CRASH_AFTER_PUBLISH = "crash_after_publish"
    CRASH_AFTER_MARK = "crash_after_mark"
    CRASH_WHILE_FINISHING = "crash_while_finishing"


KINDS = tuple(Kind)
POISON = tuple(kind for kind in KINDS if kind.startswith("poison_"))
CRASHES = tuple(kind for kind in KINDS if kind.startswith("crash_"))
# They happen between two nights, so there must be another night to come.
_BETWEEN_NIGHTS = (
    Kind.CRASH_BEFORE_PUBLISH, Kind.CRASH_AFTER_PUBLISH, Kind.CRASH_AFTER_MARK, Kind.DUPLICATES,
)  # fmt: skip
# They break no attempt at a batch, so nothing may be divided for their sake.
HARMLESS = (
    Kind.KILL_CONTROL, Kind.KILL_BEAT, Kind.KILL_EXPORTER, Kind.KILL_FLOWER, Kind.REDIS_FLUSHALL, Kind.DUPLICATES,
    Kind.MALFORMED, Kind.POSTGRES_LOCK, Kind.POSTGRES_TERMINATE, Kind.CRASH_BEFORE_CLAIM, Kind.CRASH_BEFORE_PUBLISH,
    Kind.CRASH_AFTER_PUBLISH, Kind.CRASH_AFTER_MARK,
)  # fmt: skip
_NETWORK = (Kind.LATENCY, Kind.HALF_OPEN, Kind.CUT)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: the share of the user-days, 0 to 1, after which it strikes; of a poisonous user his first night.
        target: of the network's faults `postgres` or `redis`, else empty.
        seconds: how long it is held, where it is held.
        pick: chooses among what is there when it strikes: a pool child, a user, a variant.
    """

    kind: Kind
    at: float
    target: str
    seconds: float
    pick: int


def schedule(seed: int, *, nights: int, faults: int = FAULTS) -> tuple[Fault, ...]:
    """The faults of a seed (>= 0), in the order in which they strike."""
    draws = np.random.PCG64([seed, 1])
    kinds = [_dealt(seed * faults + position) for position in range(faults)]
    drawn = [_draw(kind, [int(word) for word in draws.random_raw(4)], nights) for kind in kinds]
    return tuple(sorted(drawn, key=lambda fault: (fault.at, fault.kind)))


def _dealt(position: int) -> Kind:
    """The card at `position` of the endless deck."""
    deck, card = divmod(position, len(KINDS))
    order = np.argsort(np.random.PCG64([deck, 0]).random_raw(len(KINDS)), kind="stable")
    return KINDS[int(order[card])]


def _draw(kind: Kind, words: list[int], nights: int) -> Fault:
    at = (words[0] >> 20) % _PPM / _PPM
    if kind in POISON:
        # The one who hangs comes last: his night's last batch is small, and each hang costs a time limit.
        night = nights - 1 if kind is Kind.POISON_HANG else int(at * nights)
        at = night / nights
    elif kind in _BETWEEN_NIGHTS:
        at *= 0.9 * (nights - 1) / nights
    else:
        at *= 0.9
    target = ("postgres", "redis")[(words[1] >> 20) % 2] if kind in _NETWORK else ""
    share = (words[2] >> 20) % _PPM / _PPM
    # Delays are spread evenly over their logarithm: 0.2 s is as likely as 5 s.
    seconds = 0.2 * 25**share if kind is Kind.LATENCY else 1 + 2 * share
    return Fault(kind, round(at, 4), target, round(seconds, 3), words[3] >> 20)
