"""All scenarios, in the order in which they are played: what leaves late nights behind comes last.

But for backups: from the first of theirs on the stack makes some, and nothing else is to be measured beside that.
"""

from __future__ import annotations

from functools import partial

from benchmarks.alerts.backups import none_made, one_damaged
from benchmarks.alerts.nights import held_up, late, malformed, refused, slept_through, slowed, without_closes
from benchmarks.alerts.outside import provider_fails, receiver_fails
from benchmarks.alerts.processes import extra_worker_killed, group_killed, stopped, sweep_held, unplugged
from benchmarks.alerts.scenario import Scenario
from benchmarks.alerts.servers import (
    connections_used_up,
    disk_filled,
    postgres_killed,
    redis_filled,
    redis_killed,
    slow_statement,
)

_TWO_PERCENT, _TEN_PERCENT = 3, 15  # of 150 users, one a batch

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(("ExporterAbsent",), "SIGSTOP to the exporter", "SIGCONT", partial(stopped, name="exporter")),
    Scenario(("BeatSilent",), "SIGSTOP to beat", "SIGCONT", partial(stopped, name="beat")),
    Scenario(("DatabaseSlow",), "a statement that sleeps for ten minutes", "it is cancelled", slow_statement),
    Scenario(
        ("DatabaseConnectionsHigh",), "somebody else opens connections until 88 % are in use", "they are closed",
        connections_used_up,
    ),
    Scenario(("RedisMemoryHigh",), "other data fill Redis to 85 % of its maxmemory", "they are deleted", redis_filled),
    Scenario(("DiskFull",), "a file fills the home's disk to 90 %", "it is deleted", disk_filled),
    Scenario(
        ("QueueWithoutWorker",), "the workers are told not to serve `notifications`", "they are told to serve it",
        unplugged,
    ),
    Scenario(
        ("OutboxStale",), "the administrators' channel answers 500, and a run is cancelled", "it takes messages again",
        receiver_fails,
    ),
    Scenario(
        ("PriceProviderFailing", "PriceStale"), "the provider of prices answers 500", "it delivers again",
        provider_fails,
    ),
    Scenario(
        ("MessagesPutBack",), "SIGKILL to the workers of a night with batches in hand", "five minutes pass",
        group_killed,
    ),
    Scenario(
        ("UnackedStale",), "SIGSTOP to workers with messages in hand, while the sweep's lock is held by nobody alive",
        "SIGCONT, and the lock is removed", sweep_held,
    ),
    Scenario(
        ("WorkerLost",), "SIGKILL to a second group of workers, which nobody restarts", "it is started again",
        extra_worker_killed,
    ),
    Scenario(("UsersQuarantined",), "a simulation has no parameters", "it has, and is done again", malformed),
    Scenario(
        ("NightFailures",), "the database refuses the rows of 2 % of the users", "it takes them in the next night",
        refused(_TWO_PERCENT),
    ),
    Scenario(
        ("NightFailuresMany",), "the database refuses the rows of 10 % of the users", "it takes them in the next night",
        refused(_TEN_PERCENT),
    ),
    Scenario(("RedisAway",), "SIGKILL to Redis", "it is started again", redis_killed),
    Scenario(("DatabaseAway",), "SIGKILL to PostgreSQL", "it is started again", postgres_killed),
    Scenario(
        ("NightTooLong",), "the database takes 0.2 s for each row of a night", "it is quick again", slowed(0.2)
    ),
    Scenario(("NightEndsLate",), "the database takes 0.8 s for each row of a night", "it is quick again", slowed(0.8)),
    Scenario(
        ("NightStalled", "QueueLong", "NightNotStarted"),
        "somebody else's session holds all users' locks", "it ends", held_up,
    ),
    Scenario(
        ("ErrorBudgetFastBurn", "ErrorBudgetSlowBurn"),
        "somebody else's session holds all users' locks until a night is late",
        "it ends; rows say that all nights were in time, as when thirty days have passed", late, rows=True,
    ),
    Scenario(
        ("DayMissed",), "everything was away for longer than the catch-up", "a row is set back by a day", slept_through,
        rows=True,
    ),
    Scenario(("NightWaitsForCloses",), "a day's closes do not come", "they are imported", without_closes),
    Scenario(
        ("BackupOld",), "the backups are set back by the interval and an hour", "one is made", none_made, rows=True
    ),
    Scenario(
        ("BackupUnverified",), "a byte of the newest backup is changed, and its verification fails",
        "it is removed, and a new one made and verified", one_damaged,
    ),
)  # fmt: skip
