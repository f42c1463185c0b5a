"""This module gives inference checks turns: one at a time per server, whichever process makes it."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from shared.store import keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

LASTS = 120.0
"""Seconds after which the turn of a process that died ends; a check takes less."""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


@asynccontextmanager
async def inference_turn(redis: Redis, peer_id: str) -> AsyncIterator[bool]:
    """Take the server's turn for as long as the context lasts; yields False where another check has it.

    Where Redis is away nobody has it: each process still makes one check of a server at a time by itself.
    """
    key, token = keys.inference_turn(peer_id), secrets.token_hex(8)
    try:
        if await redis.pttl(key) == -1:
            await redis.delete(key)  # no turn is without an end: this is something else
        mine = await redis.set(key, token, nx=True, px=int(LASTS * 1000)) is not None
    except (RedisError, OSError, TimeoutError):
        yield True
        return
    try:
        yield mine
    finally:
        if mine:
            with suppress(RedisError, OSError, TimeoutError):
                await redis.eval(_RELEASE, 1, key, token)
