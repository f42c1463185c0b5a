"""This module spells every Redis key of the monitor. RQ's own keys start with `rq:`.

The other modules of this package: `connection` connects; `stored` parses hostile entries and deletes unusable keys;
`snapshots` publishes, and follows through `streams`; `fencing` lets the leading crawler alone write;
`changes` follows changes; `history` reads records that `rings` and `server_history` define;
`inference_turn` keeps checks of one server apart; `clock` is Redis's clock; `rq_job` reads RQ's jobs.

| key                           | type       | written by, life                                                       |
|-------------------------------|------------|------------------------------------------------------------------------|
| petals:snapshots              | stream     | crawler; one entry, replaced by each crawl                             |
| petals:crawls                 | stream     | crawler; one entry: how the latest attempt went                        |
| petals:crawler:lease          | string     | leading crawler; 5 s unless renewed                                    |
| petals:crawler:fencing        | counter    | crawlers; counts the times that a crawler took the lead                |
| petals:history:head           | string     | crawler; when the crawl ended that was recorded last; a year           |
| petals:history:looks          | string     | crawler; ring: minutes of each hour in which a crawl saw the swarm     |
| petals:history:models         | sorted set | crawler; member = DHT prefix, at most 100; score = its rank            |
| petals:history:model:R:P      | string     | crawler; ring of model P at resolution R; R's span after the last write|
| petals:history:model:inference:P | string  | crawler; ring of hours of the inference checks of model P; 30 days     |
| petals:history:servers        | sorted set | crawler; member = peer id, at most 5,000; score = its rank             |
| petals:history:server:P       | string     | crawler; header and hourly ring of server P; 31 days                   |
| petals:history:server:inference:P | string | crawler; ring of hours of the inference checks of server P; 7 days     |
| petals:incidents:watch        | hash       | crawler; field = DHT prefix: last healthy state, what is suspected      |
| petals:incidents:open         | hash       | crawler; field = DHT prefix: the incident that has not ended           |
| petals:incidents:closed:C     | stream     | crawler; 500 ended incidents, a year; C is official or announced       |
| petals:changes                | stream     | crawler; 5,000 changes of servers and models, each once; 31 days       |
| petals:changes:entries        | hash       | crawler; field = a change's id: its entry in the stream; 31 days       |
| petals:changes:servers        | hash       | crawler; field = peer id and DHT prefix: what is known; 5,000          |
| petals:contributors           | hash       | crawler; field = public name: time served; 2,000, a year after the last|
| petals:incidents:told         | hash       | crawler; notices that the webhook got; 400 days after the last crawl   |
| petals:notices:positions      | hash       | leading crawler; field = hash of a service: changes told so far; 400 d |
| petals:reports                | hash       | crawler; field = week, as 2026-W48: its report as JSON; at most 260    |
| petals:inference:turn:P       | string     | crawler, workers; who checks inference of P now; 2 min unless released |
| reachability:replies          | stream     | workers; trimmed to about 20,000 replies; a day                        |
| reachability:vantages         | sorted set | workers; member = vantage, score = when its last lease ends (ms)       |
| reachability:workers:V        | sorted set | workers of vantage V; member = worker, score = when its lease ends     |
| reachability:verdict:V:P      | string     | workers; the fresh verdict on peer P from vantage V; seconds           |
| reachability:inflight:V:P     | string     | api, then workers; the job that probes P from V; 2 s unless renewed    |
| …:V:P-inference                | string     | the same of checks in which the peer computes; a minute                |
| …:V:at-HASH                   | string     | the same of a multiaddr that was given to be dialled as it is          |
| reachability:rate:A           | string     | api; requests of client address A in this window; a minute             |
| reachability:rate:inference:A | string     | api; the same, of those that ask for a computation                     |
| rq:job:P-NONCE                | hash       | api; RQ's job; expires soon after its deadline                         |
| rq:queue:reachability-V       | list       | api; RQ's queue of job ids                                             |
| rq:wip:reachability-V         | sorted set | workers; RQ's StartedJobRegistry                                       |
| rq:queue:incident-notices     | list       | leading crawler; notices for the webhook, rq:job:notice-… with them    |
| rq:scheduled:incident-notices | sorted set | leading crawler; when a notice is tried again, a day at most           |
"""

SNAPSHOTS = "petals:snapshots"
CRAWLS = "petals:crawls"
CRAWLER_LEASE = "petals:crawler:lease"
CRAWLER_FENCING = "petals:crawler:fencing"

HISTORY_HEAD = "petals:history:head"
HISTORY_CRAWLED = "petals:history:looks"
HISTORY_MODELS = "petals:history:models"
HISTORY_SERVERS = "petals:history:servers"
INCIDENT_WATCH = "petals:incidents:watch"
OPEN_INCIDENTS = "petals:incidents:open"
INCIDENTS_DELIVERED = "petals:incidents:told"
REPORTS = "petals:reports"

CHANGES = "petals:changes"
CHANGE_ENTRIES = "petals:changes:entries"
WATCHED_SERVERS = "petals:changes:servers"
CONTRIBUTORS = "petals:contributors"
NOTICE_POSITIONS = "petals:notices:positions"

REPLIES = "reachability:replies"
VANTAGES = "reachability:vantages"


def history_of_model(resolution: str, dht_prefix: str) -> str:
    return f"petals:history:model:{resolution}:{dht_prefix}"


def history_of_server(peer_id: str) -> str:
    return f"petals:history:server:{peer_id}"


def inference_of_model(dht_prefix: str) -> str:
    return f"petals:history:model:inference:{dht_prefix}"


def inference_turn(peer_id: str) -> str:
    return f"petals:inference:turn:{peer_id}"


def inference_of_server(peer_id: str) -> str:
    """Under the prefix of the servers' history: the two are deleted together."""
    return f"petals:history:server:inference:{peer_id}"


def closed_incidents(*, official: bool) -> str:
    """Two streams, so that incidents of models that anyone can announce cannot displace those of official ones."""
    return f"petals:incidents:closed:{'official' if official else 'announced'}"


def workers(vantage: str) -> str:
    return f"reachability:workers:{vantage}"


def verdict(vantage: str, peer_id: str) -> str:
    return f"reachability:verdict:{vantage}:{peer_id}"


def inflight(vantage: str, peer_id: str) -> str:
    return f"reachability:inflight:{vantage}:{peer_id}"


def rate(address: str) -> str:
    return f"reachability:rate:{address}"


def of_the_crawler() -> dict[str, str]:
    """Return `{key: type}` of the leading crawler's keys, without those of single models and servers."""
    return {
        SNAPSHOTS: "stream",
        CRAWLS: "stream",
        CRAWLER_LEASE: "string",
        CRAWLER_FENCING: "string",
        HISTORY_HEAD: "string",
        HISTORY_CRAWLED: "string",
        HISTORY_MODELS: "zset",
        HISTORY_SERVERS: "zset",
        INCIDENT_WATCH: "hash",
        OPEN_INCIDENTS: "hash",
        INCIDENTS_DELIVERED: "hash",
        CHANGES: "stream",
        CHANGE_ENTRIES: "hash",
        WATCHED_SERVERS: "hash",
        CONTRIBUTORS: "hash",
        NOTICE_POSITIONS: "hash",
        REPORTS: "hash",
        closed_incidents(official=True): "stream",
        closed_incidents(official=False): "stream",
        **of_rq("incident-notices"),
    }


def of_the_workers(vantage: str, queue: str) -> dict[str, str]:
    """Return `{key: type}` of the keys of a vantage point's workers, without those of single peers."""
    return {REPLIES: "stream", VANTAGES: "zset", workers(vantage): "zset", **of_rq(queue)}


def of_rq(queue: str) -> dict[str, str]:
    """Return `{key: type}` of RQ's keys of one queue and of those that all queues share."""
    registries = ("wip", "finished", "failed", "deferred", "scheduled", "canceled")
    return {
        f"rq:queue:{queue}": "list",
        f"rq:queue:{queue}:intermediate": "list",
        "rq:queues": "set",
        "rq:workers": "set",
        f"rq:workers:{queue}": "set",
        **{f"rq:{registry}:{queue}": "zset" for registry in registries},
    }
