"""Redis or Valkey: version, and whether it may throw messages away, forget them, or refuse them.

`INFO` tells nearly all of it, because managed servers forbid `CONFIG`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import redis

from services.doctor_findings import Finding, Group
from services.queue_state import Client

BROKER, CACHE = Group("broker"), Group("cache")
OLDEST = (7, 0)
_FULL = 0.8
_VARIABLE = "in redis.conf, or by CONFIG SET"


def examine_broker(client: Client) -> Iterator[Finding]:
    """What is wrong with the server of the queues."""
    info = _info(client)
    if info is None:
        yield BROKER.warning(
            "info", "this user may not ask INFO: nothing was examined", "allow it: ACL SETUSER … +info"
        )
        return
    yield judge_version(BROKER, info)
    yield from judge_broker(info)
    with suppress(redis.ResponseError):
        idle = int(dict(client.config_get("timeout")).get("timeout") or 0)
        if idle:
            detail = f"timeout is {idle} s: idle connections of workers are cut, and they reconnect for ever"
            yield BROKER.warning("timeout", detail, f"timeout 0 {_VARIABLE}")


def examine_cache(client: Client) -> Iterator[Finding]:
    """What is wrong with the server of the cache, where it is one of its own."""
    info = _info(client)
    if info is None:
        return
    yield judge_version(CACHE, info)
    policy = str(info.get("maxmemory_policy", ""))
    if policy == "noeviction" and info.get("maxmemory"):
        detail = f"maxmemory-policy is noeviction at {_size(info['maxmemory'])}: once full, it takes no newer price"
        yield CACHE.warning("eviction", detail, f"maxmemory-policy allkeys-lru {_VARIABLE}")


def judge_version(group: Group, info: Mapping[str, Any]) -> Finding:
    """By what `INFO` tells: Valkey calls itself Redis 7.2 there, and has its own version beside it."""
    version = str(info.get("redis_version", "0"))
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if parts < OLDEST:
        return group.error("version", f"{name} is too old", "upgrade to Redis 7 or Valkey 8, or newer")
    return group.ok("version", name)


def judge_broker(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What is dangerous in what `INFO` tells."""
    found = [*_losses(info), *_refusals(info)]
    yield from found
    if not found:
        limit = f"of {_size(info['maxmemory'])}" if info.get("maxmemory") else "without a limit"
        used = _size(info.get("used_memory", 0))
        yield BROKER.ok("settings", f"nothing is evicted, everything is appended to a file; {used} in use, {limit}")


def _losses(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        detail = f"maxmemory-policy is {policy}: when memory is full, it throws messages away in silence"
        yield BROKER.error(
            "eviction", detail, f"maxmemory-policy noeviction {_VARIABLE}; a cache belongs on a second server"
        )
    if not info.get("aof_enabled"):
        yield BROKER.warning(
            "appendonly",
            "appendonly is off: a restart forgets what was queued, and everything is published again",
            f"appendonly yes {_VARIABLE}",
        )


def _refusals(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield BROKER.error("replica", "this is a replica: it takes no message", "connect to the primary")
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > _FULL * limit:
        detail = f"{_size(used)} of {_size(limit)} are in use: a full broker refuses messages"
        yield BROKER.warning("memory", detail, f"a larger maxmemory {_VARIABLE}")
    clients, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if most and clients > _FULL * most:
        detail = f"{clients} of {most} connections are in use"
        yield BROKER.warning("clients", detail, f"a larger maxclients {_VARIABLE}")


def _info(client: Client) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = client.info()
    except redis.ResponseError:
        return None
    return found


def _size(count: Any) -> str:
    return f"{int(count) / 2**20:,.0f} MiB"
