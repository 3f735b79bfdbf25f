"""How each kind of fault is done to the stack's processes, to the network and to the messages.

A strike breaks something, says when and what by `hit`, holds it as long as the fault lasts, and returns the question
whose yes means recovered. The servers' faults are in faults_servers.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from signal import SIGCONT, SIGKILL, SIGSTOP

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos.faults_servers import SERVER_STRIKES
from benchmarks.chaos.schedule import CRASHES, Fault, Kind
from benchmarks.chaos.site import GaveUpError, Site, send_signal, wait_for
from benchmarks.chaos.world import CHAOS
from core.queues import Queue
from services.queue_state import queue_key

Hit = Callable[[str], None]
Recovered = Callable[[datetime], bool]
Strike = Callable[[Site, Fault, Hit], Recovered]

# Both lie inside of the batch's transaction: only there a session timeout ends the sleeper's claim.
_STOPPING_MOMENTS = ("after_read", "before_commit")
_REACHED_SECONDS = 60.0
# Shorter than the soft time limit: who stops longer is killed by the hard one.
_STOP_SECONDS = 5.0
_LATENCY_SECONDS = 3.0


def _kill_pool_child(site: Site, fault: Fault, hit: Hit) -> Recovered:
    children = site.pool_children()
    child = children[fault.pick % len(children)]
    send_signal(child, SIGKILL)
    hit(f"pool child {child.pid}")
    return site.night_goes_on


def _kill_group(name: str) -> Strike:
    def strike(site: Site, _fault: Fault, hit: Hit) -> Recovered:
        leader = site.process(name)
        send_signal(leader, SIGKILL, group=True)
        hit(f"{name}, process group {leader.pid}")
        wait_for(lambda: site.stack.processes.get(name, leader.pid) != leader.pid, 60)
        return site.night_goes_on if name == "simulations" else site.ticks

    return strike


def _kill_page(name: str, page: str) -> Strike:
    def strike(site: Site, _fault: Fault, hit: Hit) -> Recovered:
        process = site.process(name)
        send_signal(process, SIGKILL, group=True)
        hit(f"{name}, process {process.pid}")
        return lambda _since: site.page_answers(name, page, process.pid)

    return strike


def _stop_pool_child(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """Stop a child in the middle of a batch until another has done the batch; it wakes up to a lost claim."""
    moment = _STOPPING_MOMENTS[fault.pick % len(_STOPPING_MOMENTS)]
    with site.moment_locks[moment]:
        site.moments.arm(moment, SIGSTOP)
        pid = wait_for(lambda: site.moments.reached(moment), _REACHED_SECONDS)
    try:
        hit(f"pool child {pid} {moment.replace('_', ' ')}")
        with suppress(GaveUpError):
            wait_for(lambda: _left_by(site, pid), _STOP_SECONDS)
    finally:
        send_signal(pid, SIGCONT)
    return site.night_goes_on


def _left_by(site: Site, pid: int) -> bool:
    """Whether no batch is claimed by the process any more."""
    query = text("SELECT NOT EXISTS (SELECT FROM batches WHERE status <> 'done' AND worker LIKE :worker)")
    with suppress(SQLAlchemyError), site.world.engine(CHAOS).connect() as connection:
        return bool(connection.execute(query, {"worker": f"%:{pid}"}).scalar_one())
    return False


def _stop_worker_group(site: Site, fault: Fault, hit: Hit) -> Recovered:
    leader = site.process("simulations")
    send_signal(leader, SIGSTOP, group=True)
    try:
        hit(f"simulations, process group {leader.pid}")
        time.sleep(fault.seconds)
    finally:
        send_signal(leader, SIGCONT, group=True)
    return site.night_goes_on


def _crash(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """Have whoever reaches the moment first kill himself there."""
    moment = fault.kind.removeprefix("crash_")
    with site.moment_locks[moment]:
        site.moments.arm(moment, SIGKILL)
        try:
            pid = wait_for(lambda: site.moments.reached(moment), _REACHED_SECONDS)
        finally:
            site.moments.disarm(moment)
    hit(f"process {pid}")
    return site.night_goes_on


def _latency(site: Site, fault: Fault, hit: Hit) -> Recovered:
    proxy = site.proxies[fault.target]
    proxy.delay(fault.seconds)
    hit(f"{fault.target}, {fault.seconds:.1f} s each way")
    time.sleep(_LATENCY_SECONDS)
    proxy.delay(0)
    return site.night_goes_on


def _half_open(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """Nobody resets these connections: clients must notice by themselves, and new connections work."""
    count = site.proxies[fault.target].stall()
    hit(f"{fault.target}, {count} connections")
    return site.night_goes_on


def _cut(site: Site, fault: Fault, hit: Hit) -> Recovered:
    count = site.proxies[fault.target].cut()
    hit(f"{fault.target}, {count} connections")
    return site.night_goes_on


def _duplicates(site: Site, _fault: Fault, hit: Hit) -> Recovered:
    """Three of each message that waits, with one delivery tag, and of each that will be sent, with three."""
    site.moments.triple()
    key = queue_key(Queue.SIMULATIONS)
    with site.server_locks["redis"], site.redis() as client:
        waiting = client.lrange(key, 0, -1)
        if waiting:
            client.lpush(key, *waiting, *waiting)
    hit(f"{len(waiting)} messages that waited, and all to come")
    return site.night_goes_on


def _malformed(site: Site, _fault: Fault, hit: Hit) -> Recovered:
    messages = _malformed_messages()
    with site.server_locks["redis"], site.redis() as client:
        for queue in (Queue.SIMULATIONS, Queue.CONTROL):
            # At the end from which workers take.
            client.rpush(queue_key(queue), *messages)
    hit(f"{len(messages)} messages into each of 2 queues")
    return site.night_goes_on


def _malformed_messages() -> list[bytes]:
    properties = {"delivery_info": {"exchange": "", "routing_key": "simulations"}, "delivery_tag": "chaos"}
    headers = {"task": "simulations.advance_batch", "id": "chaos", "lang": "py"}
    envelope = {"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8"}
    return [
        b"",
        b"\x80\x04K\x01.",
        b'{"body": ',
        b"[" * 5000,
        b"{" + b" " * 100_000 + b"}",
        b'{"batch_id": 1}',
        json.dumps(envelope | {"properties": properties, "headers": {}}).encode(),
        json.dumps(envelope | {"properties": properties, "headers": headers, "body": "not base64"}).encode(),
        json.dumps(envelope | {"properties": properties, "headers": headers | {"task": "os.system"}}).encode(),
        json.dumps(
            envelope
            | {"properties": properties, "headers": headers | {"eta": "2999-01-01T00:00:00Z"}}
            | {"content-type": "application/x-python-serialize"}
        ).encode(),
    ]


STRIKES: dict[Kind, Strike] = {
    Kind.KILL_POOL_CHILD: _kill_pool_child,
    Kind.KILL_WORKER_GROUP: _kill_group("simulations"),
    Kind.KILL_CONTROL: _kill_group("control"),
    Kind.KILL_BEAT: _kill_group("beat"),
    Kind.KILL_EXPORTER: _kill_page("exporter", "/metrics"),
    Kind.KILL_FLOWER: _kill_page("flower", "/healthcheck"),
    Kind.STOP_POOL_CHILD: _stop_pool_child,
    Kind.STOP_WORKER_GROUP: _stop_worker_group,
    Kind.LATENCY: _latency,
    Kind.HALF_OPEN: _half_open,
    Kind.CUT: _cut,
    Kind.DUPLICATES: _duplicates,
    Kind.MALFORMED: _malformed,
    **dict.fromkeys(CRASHES, _crash),
    **SERVER_STRIKES,
}
