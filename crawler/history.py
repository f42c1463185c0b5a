"""Write each crawl into the history: bounded, in one atomic step, fenced by the lease, once a crawl.

Three round trips a crawl: what the state is, what stands in the slots of now, and the script that writes. The
script refuses a deposed crawler, and one whose view of the history is not the newest any more, so what was read
before it cannot have changed. Sizes and bounds: docs/history.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import ResponseError

from crawler.history_commands import YEAR, FollowedModel, look_commands, model_commands, server_commands
from crawler.incidents import Watch, absent, judged
from shared import keys
from shared.history import LOOKS, MINUTE, Resolution, unpack_look
from shared.server_history import HEADER_BYTES, LIFE_SECONDS, place_of
from shared.snapshot import ModelState, PeerState, Snapshot
from shared.snapshot_store import DeposedError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from crawler.history_commands import Command

MAX_MODELS = 100
"""Models with a history. Official ones come first, then those that were ever healthy."""
MAX_SERVERS = 5_000
"""Servers with a history. Those that were never online go first, then those not seen for longest."""
CLOCK_TOLERANCE = 60.0
"""Seconds by which a recorded crawl may lie in the future of Redis's clock."""

# KEYS: lease, head, models, servers, watch, open incidents.
# ARGV: the writer's lease, the head that it read, the new head, models kept, servers kept, oldest score of a model,
# of a server, prefix of servers' keys, how many prefixes of models' keys and these; then the commands, each after
# the number of its parts. The keys that commands and prefixes name are those of shared/keys.py, of one database.
_APPEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return redis.error_reply('STALE') end
redis.call('SET', KEYS[2], ARGV[3], 'EX', 31622400)
local at = 10 + tonumber(ARGV[9])
while ARGV[at] do
  local parts = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + parts))
  at = at + parts + 1
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
  for i = 10, 9 + tonumber(ARGV[9]) do redis.call('DEL', ARGV[i] .. prefix) end
  redis.call('HDEL', KEYS[5], prefix)
  redis.call('HDEL', KEYS[6], prefix)
end)
forget(KEYS[4], ARGV[5], ARGV[7], function(peer) redis.call('DEL', ARGV[8] .. peer) end)
return 1
"""


class HistoryWriter:
    """Records crawls for one crawler; every write is fenced by the lease that it holds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append = redis.register_script(_APPEND)

    async def append(self, snapshot: Snapshot, lease: str) -> bool:
        """Record one crawl; return False for one that is recorded already, or is older than that.

        Raises `DeposedError`, `redis.RedisError`.
        """
        at = snapshot.taken_at
        hour = LOOKS.slot(at)
        reading = self._redis.pipeline(transaction=False)
        reading.get(keys.HISTORY_HEAD)
        reading.hgetall(keys.INCIDENT_WATCH)
        reading.getrange(keys.HISTORY_LOOKS, LOOKS.offset(hour), LOOKS.offset(hour) + LOOKS.width - 1)
        reading.time()
        head, watched, look, (now, _) = await reading.execute()
        last = float(head) if head else 0.0
        # A crawl from the future was dated by a clock that was ahead: it does not bar the right ones.
        if was_ahead := last > now + CLOCK_TOLERANCE:
            last = 0.0
        if at <= last:
            return False
        watches = {prefix.decode(): _read_watch(data) for prefix, data in watched.items()}
        models = _choose_models(snapshot, watches)
        servers = _choose_servers(snapshot)

        reading = self._redis.pipeline(transaction=False)
        for model in models:
            for resolution in Resolution:
                place = resolution.ring.offset(resolution.ring.slot(at))
                key = keys.history_of_model(resolution, model.report.dht_prefix)
                reading.getrange(key, place, place + resolution.ring.width - 1)
        for peer_id in servers:
            reading.getrange(keys.history_of_server(peer_id), 0, HEADER_BYTES - 1)
        for peer_id in servers if was_ahead else ():
            reading.getrange(keys.history_of_server(peer_id), place_of(hour), place_of(hour))
        found: list[bytes] = await reading.execute()
        of_models = len(models) * len(Resolution)
        rings, of_servers = found[:of_models], found[of_models:]

        looked = unpack_look(look, hour)
        commands = look_commands(hour, looked, first=not look, new_minute=at // MINUTE > last // MINUTE)
        for number, model in enumerate(models):
            commands += model_commands(model, rings[number * len(Resolution) :], at)
        headers, stood = of_servers[: len(servers)], of_servers[len(servers) :]
        commands += server_commands(servers, headers, at, last_look=int(last), looked=looked, stood=stood)
        await self._write(commands, lease, head or b"", at)
        return True

    async def _write(self, commands: list[Command], lease: str, head: bytes, at: float) -> None:
        prefixes = [keys.history_of_model(resolution, "") for resolution in Resolution]
        arguments: list[Any] = [lease, head, repr(at), MAX_MODELS, MAX_SERVERS, at - YEAR, at - LIFE_SECONDS]
        arguments += [keys.history_of_server(""), len(prefixes), *prefixes]
        for command in commands:
            arguments += [len(command), *command]
        try:
            await self._append(
                keys=[
                    keys.CRAWLER_LEASE, keys.HISTORY_HEAD, keys.HISTORY_MODELS, keys.HISTORY_SERVERS,
                    keys.INCIDENT_WATCH, keys.OPEN_INCIDENTS,
                ],
                args=arguments,
            )  # fmt: skip
        except ResponseError as error:
            if str(error).startswith(("DEPOSED", "STALE")):
                raise DeposedError(str(error)) from error
            raise


def _read_watch(data: bytes) -> Watch | None:
    try:
        return msgspec.msgpack.decode(data, type=Watch)
    except msgspec.MsgspecError:  # of another version: what it knew is learnt again
        return None


def _choose_models(snapshot: Snapshot, watches: dict[str, Watch | None]) -> list[FollowedModel]:
    found = [
        FollowedModel(report, judged(report, snapshot.unanswered_keys), watches.get(report.dht_prefix))
        for report in snapshot.models
    ]
    there = {report.dht_prefix for report in snapshot.models}
    for prefix, watch in watches.items():
        if prefix not in there and watch is not None and watch.missed_when_absent:
            found.append(FollowedModel(absent(prefix, watch), judged(None, snapshot.unanswered_keys), watch))

    def rank(model: FollowedModel) -> tuple[bool, bool]:
        known = model.state is ModelState.HEALTHY or (model.watch is not None and model.watch.last_healthy is not None)
        return not model.report.official, not known

    return sorted(found, key=rank)[:MAX_MODELS]


def _choose_servers(snapshot: Snapshot) -> dict[str, bool]:
    """Return whether each is online, in any of its models; those that are first, where there are too many."""
    online: dict[str, bool] = {}
    for model in snapshot.models:
        for server in model.servers:
            online[server.peer_id] = online.get(server.peer_id, False) or server.state is PeerState.ONLINE
    if len(online) <= MAX_SERVERS:
        return online
    return dict(sorted(online.items(), key=lambda item: not item[1])[:MAX_SERVERS])
