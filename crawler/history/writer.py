"""This module records each crawl in the history: bounded in size, in one atomic step, fenced by the lease.

It takes three round trips per crawl: read the state, read the current slots, and run the script that writes. The script
refuses a deposed crawler, and one that read an older state than the current one, so what was read cannot have changed.
Sizes and bounds: docs/history.md.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from crawler.history.changes import decode_watched, models_left_out, server_changes
from crawler.history.commands import (
    YEAR,
    FollowedModel,
    StoredOutage,
    crawled_commands,
    incident_commands,
    model_commands,
    server_commands,
    withdrawal_commands,
)
from crawler.history.contributors import contributor_commands
from crawler.history.pieces import Piece, read_pieces, ring_pieces
from crawler.history.proofs import ProofHistory
from crawler.incidents import absent, decode_watch, judged
from shared import changes, contributors, incidents
from shared.judgement.freshness import snapshot_period
from shared.snapshot import ModelState, PeerState, Snapshot
from shared.store import keys, stored
from shared.store.fencing import FencedScript
from shared.store.rings import CRAWLED, MINUTE, Resolution, unpack_crawled
from shared.store.server_history import HEADER_BYTES, LIFE_SECONDS, offset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis.asyncio import Redis

    from crawler.history.commands import Command

T = TypeVar("T")

MAX_MODELS = 100
"""Models with a history: official ones first, then those that were ever healthy."""
MAX_SERVERS = 5_000
"""Servers with a history. Those that were never online are dropped first, then those not seen for longest."""
GAP_SECONDS, GAP_PERIODS = 600.0, 3
"""Seconds, or periods of crawls if these are longer, after which the crawl before does not count as the one before."""
CLOCK_TOLERANCE = 60.0
"""Seconds by which a recorded crawl may be ahead of Redis's clock."""

# KEYS: lease, head, models, servers, watch, open incidents, changes, their entries.
# ARGV: lease, the head that it read, the new head, models kept, servers kept, oldest score of a model,
# of a server, prefix of servers' keys, how many prefixes of models' keys, changes kept, oldest time of a change (ms),
# and these prefixes; then the commands, each after the number of its parts. `CHANGE id document` replaces a change's
# entry of the stream. The keys that commands and prefixes name are those of shared/store/keys.py, of one database.
_APPEND = """
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return redis.error_reply('STALE') end
redis.call('SET', KEYS[2], ARGV[3], 'EX', 31622400)
local at = 12 + tonumber(ARGV[9])
while ARGV[at] do
  local parts = tonumber(ARGV[at])
  if ARGV[at + 1] == 'CHANGE' then
    local id = ARGV[at + 2]
    local old = redis.call('HGET', KEYS[8], id)
    if old then redis.pcall('XDEL', KEYS[7], old) end
    local added = redis.pcall('XADD', KEYS[7], '*', 'id', id, 'change', ARGV[at + 3])
    if type(added) == 'table' then -- the stream is at its last id: it is begun anew
      redis.call('DEL', KEYS[7], KEYS[8])
      added = redis.call('XADD', KEYS[7], '*', 'id', id, 'change', ARGV[at + 3])
    end
    redis.call('HSET', KEYS[8], id, added)
  else
    redis.call(unpack(ARGV, at + 1, at + parts))
  end
  at = at + parts + 1
end
redis.call('EXPIRE', KEYS[7], 2678400)
redis.call('EXPIRE', KEYS[8], 2678400)
while true do
  local first = redis.call('XRANGE', KEYS[7], '-', '+', 'COUNT', 1)[1]
  if not first then break end
  local written = tonumber(string.match(first[1], '^%d+'))
  if written >= tonumber(ARGV[11]) and redis.call('XLEN', KEYS[7]) <= tonumber(ARGV[10]) then break end
  redis.call('XDEL', KEYS[7], first[1])
  redis.call('HDEL', KEYS[8], first[2][2])
end
local function forget(index, kept, oldest, drop)
  local old = redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. oldest)
  for _, member in ipairs(old) do drop(member); redis.call('ZREM', index, member) end
  local extra = redis.call('ZCARD', index) - tonumber(kept)
  if extra > 0 then
    for _, member in ipairs(redis.call('ZRANGE', index, 0, extra - 1)) do drop(member) end
    redis.call('ZREMRANGEBYRANK', index, 0, extra - 1)
  end
end
forget(KEYS[3], ARGV[4], ARGV[6], function(prefix)
  for i = 12, 11 + tonumber(ARGV[9]) do redis.call('DEL', ARGV[i] .. prefix) end
  redis.call('HDEL', KEYS[5], prefix)
  redis.call('HDEL', KEYS[6], prefix)
end)
forget(KEYS[4], ARGV[5], ARGV[7], function(peer)
  redis.call('DEL', ARGV[8] .. peer, ARGV[8] .. 'inference:' .. peer)
end)
return 1
"""


class _Before(NamedTuple):
    """What is stored before a crawl. The hashes are HGETALL's answers, which may be errors."""

    head: bytes
    last: float
    """When the crawl ended that was recorded last, in Unix seconds; 0 where there is none, or a clock was ahead."""
    was_ahead: bool
    """Whether a clock that was ahead dated that crawl, which then does not prevent newer ones."""
    crawled: bytes
    """The record of this hour."""
    watched: Any
    opened: Any
    servers: Any
    contributors: Any

    def is_gap_until(self, snapshot: Snapshot) -> bool:
        """Whether nobody looked for long before this crawl."""
        return 0.0 < self.last < snapshot.taken_at - max(GAP_SECONDS, GAP_PERIODS * snapshot_period(snapshot))


class HistoryWriter:
    """Records the crawls of one crawler. Every write names its lease, which fences it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append = FencedScript(redis, _APPEND)
        self._proofs = ProofHistory(redis)

    async def append(self, snapshot: Snapshot, lease: str) -> bool:
        """Record one crawl. Return False for a crawl that is not newer than the last recorded one.

        Raises `DeposedError`, `redis.RedisError`.
        """
        at = snapshot.taken_at
        before = await self._read(at)
        if at <= before.last:
            return False
        hour, after_gap = CRAWLED.slot(at), before.is_gap_until(snapshot)
        models, commands = _follow(snapshot, before.watched, before.opened, at, after_gap=after_gap)
        servers = _choose_servers(snapshot)

        rings = {model.report.dht_prefix: ring_pieces(model.report.dht_prefix, at) for model in models}
        headers = [Piece(keys.history_of_server(peer_id), 0, HEADER_BYTES) for peer_id in servers]
        hours = [Piece(keys.history_of_server(peer_id), offset_of(hour), 1) for peer_id in servers if before.was_ahead]
        whole_ring = Piece(keys.HISTORY_CRAWLED, 0, CRAWLED.size)
        pieces = [*chain.from_iterable(rings.values()), *headers, *hours, *((whole_ring,) if before.was_ahead else ())]
        found, unusable = await read_pieces(self._redis, pieces)
        commands += unusable
        known, unreadable = _readable("change", decode_watched, keys.WATCHED_SERVERS, before.servers)
        commands += unreadable
        commands += server_changes(known, snapshot, at, after_gap=after_gap)
        served = stored.read_fields(
            "contributor", contributors.decode, stored.answered("contributor", before.contributors, {})
        )
        commands += contributor_commands(served, snapshot, at, last_crawl=before.last)
        minutes = unpack_crawled(before.crawled, hour)
        commands += crawled_commands(
            hour,
            minutes,
            first=not before.crawled,
            new_minute=at // MINUTE > before.last // MINUTE,
            ring=found.get(whole_ring, b""),
        )
        for model in models:
            commands += model_commands(model, [found[piece] for piece in rings[model.report.dht_prefix]], at)
        commands += server_commands(
            servers,
            [found[piece] for piece in headers],
            at,
            last_crawl=int(before.last),
            minutes=minutes,
            ring_minutes=[found[piece] for piece in hours],
        )
        followed = {model.report.dht_prefix for model in models}
        proofs, recorded = await self._proofs.commands(snapshot, followed, servers)
        await self._write(commands + proofs, lease, before.head, at)
        self._proofs.recorded = recorded
        return True

    async def _read(self, at: float) -> _Before:
        """Return what is stored before the crawl that ended `at`. Raises `redis.RedisError`."""
        place = CRAWLED.offset(CRAWLED.slot(at))
        reading = self._redis.pipeline(transaction=False)
        reading.get(keys.HISTORY_HEAD)
        reading.getrange(keys.HISTORY_CRAWLED, place, place + CRAWLED.width - 1)
        reading.time()
        for key in (keys.INCIDENT_WATCH, keys.OPEN_INCIDENTS, keys.WATCHED_SERVERS, keys.CONTRIBUTORS):
            reading.hgetall(key)
        head, crawled, time, *hashes = await reading.execute(raise_on_error=False)
        head, crawled = stored.answered("history", head, b"") or b"", stored.answered("history", crawled, b"")
        now, _ = stored.answered("history", time, (at, 0))
        last = stored.read("history", stored.number, head) or 0.0 if head else 0.0
        was_ahead = last > now + CLOCK_TOLERANCE
        return _Before(head, 0.0 if was_ahead else last, was_ahead, crawled, *hashes)

    async def _write(self, commands: list[Command], lease: str, head: bytes, at: float) -> None:
        prefixes = [keys.history_of_model(resolution, "") for resolution in Resolution]
        prefixes.append(keys.inference_of_model(""))
        arguments: list[Any] = [head, repr(at), MAX_MODELS, MAX_SERVERS, at - YEAR, at - LIFE_SECONDS]
        arguments += [keys.history_of_server(""), len(prefixes)]
        arguments += [changes.MAX_CHANGES, int((at - changes.LIFE_SECONDS) * 1000), *prefixes]
        for command in commands:
            arguments += [len(command), *command]
        names = [
            keys.HISTORY_HEAD, keys.HISTORY_MODELS, keys.HISTORY_SERVERS, keys.INCIDENT_WATCH, keys.OPEN_INCIDENTS,
            keys.CHANGES, keys.CHANGE_ENTRIES,
        ]  # fmt: skip
        await self._append(lease, names, *arguments)


def _follow(
    snapshot: Snapshot, watched: Any, opened: Any, at: float, *, after_gap: bool
) -> tuple[list[FollowedModel], list[Command]]:
    """Return the models to follow, and commands for the other fields of the two hashes (watches, open incidents)."""
    watches, commands = _readable("watch", decode_watch, keys.INCIDENT_WATCH, watched)
    shown, unreadable = _readable("incident", incidents.decode, keys.OPEN_INCIDENTS, opened)
    commands += unreadable
    outages = {
        prefix: StoredOutage(watches.get(prefix), shown.get(prefix), after_gap) for prefix in {**watches, **shown}
    }
    models, left_out, withdrawn = _choose_models(snapshot, outages)
    for prefix in withdrawn:
        commands += withdrawal_commands(prefix, outages[prefix], at)
    for model in left_out:
        if model.stored.opened is not None:
            commands += incident_commands(model.report.dht_prefix, model.stored, None, None, at)
    return models, commands


def _readable(kind: str, parse: Callable[[bytes], T], key: str, answer: Any) -> tuple[dict[str, T], list[Command]]:
    """Return the fields of a hash that can be parsed, and commands that delete the others; `answer` is HGETALL's."""
    fields: dict[bytes, bytes] = stored.answered(kind, answer, {})
    found = stored.read_fields(kind, parse, fields)
    names = {name.encode() for name in found}
    return found, [("HDEL", key, field) for field in fields if field not in names]


def _choose_models(
    snapshot: Snapshot, outages: Mapping[str, StoredOutage]
) -> tuple[list[FollowedModel], list[FollowedModel], list[str]]:
    """Return the models to follow, those beyond `MAX_MODELS`, and DHT prefixes that the operator withdrew."""
    found = [
        FollowedModel(report, judged(report, snapshot.unanswered_keys), outages.get(report.dht_prefix, StoredOutage()))
        for report in snapshot.models
    ]
    present = {report.dht_prefix for report in snapshot.models}
    withdrawn = []
    for prefix, outage in outages.items():
        watch = outage.agreed
        if prefix in present or watch is None:
            continue
        if watch.official:  # official ones are in every snapshot, also those that nobody serves
            withdrawn.append(prefix)
        elif watch.missed_when_absent:
            unseen = snapshot.unanswered_keys + models_left_out(snapshot)
            found.append(FollowedModel(absent(prefix, watch), judged(None, unseen), outage))

    def rank(model: FollowedModel) -> tuple[bool, bool]:
        watch = model.stored.agreed
        known = model.state is ModelState.HEALTHY or (watch is not None and watch.missed_when_absent)
        return not model.report.official, not known

    ranked = sorted(found, key=rank)
    return ranked[:MAX_MODELS], ranked[MAX_MODELS:], withdrawn


def _choose_servers(snapshot: Snapshot) -> dict[str, bool]:
    """Return `{peer_id: online in any model}`, cut to `MAX_SERVERS`: online ones first."""
    online: dict[str, bool] = {}
    for model in snapshot.models:
        for server in model.servers:
            online[server.peer_id] = online.get(server.peer_id, False) or server.state is PeerState.ONLINE
    if len(online) <= MAX_SERVERS:
        return online
    return dict(sorted(online.items(), key=lambda item: not item[1])[:MAX_SERVERS])
