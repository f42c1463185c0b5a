"""Snapshots as a crawler would publish them, for the tests of pages: a small swarm, a big one, a hostile one."""

from __future__ import annotations

import hashlib
import random

import base58
import msgspec

from api.pages import CheckView, View
from api.pages.history import ModelPast
from shared.advice.causes import advice, message
from shared.contributors import DAY, Contributor, Day
from shared.inference import Hop, InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.coverage import coverage
from shared.reachability import Answer, Cause, DialOutcome, Stage
from shared.snapshot import (
    SCHEMA_VERSION,
    BootstrapPeer,
    CrawlStatus,
    Location,
    ModelReport,
    ModelState,
    PeerState,
    ReachabilityIssue,
    Refusals,
    ServerReport,
    Snapshot,
    Span,
    Verdict,
)
from shared.store.history import ModelHistory, ServerHistory
from shared.store.inference_history import Proof
from shared.store.rings import HOUR, ModelSlot, Resolution
from shared.store.server_history import ServerHour, ServerRecord

NOW = 1_763_900_000.0
PROOFS = (
    *(
        Proof(int(NOW) // HOUR * HOUR - hours * HOUR, 6, 6, "computed", 0.3 + hours / 1000)
        for hours in range(99, 1, -3)
    ),
    Proof(int(NOW) // HOUR * HOUR, 6, 2, "timeout", 1.4),
)
"""Inference checks of some days, the last of which failed."""

NAMES = (
    "Ada",
    "GPU Club",
    "https://example.org/lab",
    "night shift",
    "Лаборатория 7",
    "東京GPU",
    "https://petals.dev",
    None,
    None,
)


def model_past(proofs=PROOFS) -> ModelPast:
    """What is kept of a model: the latest slot of each kind, and inference checks."""
    hours, minutes, days = (
        ModelHistory("m", each, (ModelSlot(each.ring.slot(NOW), 3, 2, 8, 7, 0, 2.0, slowest_block=9.5),), NOW, proofs)
        for each in (Resolution.HOUR, Resolution.MINUTE, Resolution.DAY)
    )
    return ModelPast(hours, minutes, days)


def server_past(server: str, proofs=PROOFS) -> ServerHistory:
    record = ServerRecord(first_seen=int(NOW) - HOUR, last_seen=int(NOW), online_since=int(NOW), last_online=int(NOW))
    hours = (ServerHour(int(NOW) // HOUR, 50, 49),)
    return ServerHistory(server, record, hours, online=True, read_at=NOW, proofs=proofs)


def peer_id(seed: object) -> str:
    """A well-formed id, the same for the same seed; half are RSA ones, half Ed25519."""
    digest = hashlib.sha256(str(seed).encode()).digest()
    if digest[0] % 2:
        return base58.b58encode(b"\x12\x20" + digest).decode()
    return base58.b58encode(b"\x00\x24\x08\x01\x12\x20" + digest).decode()


PLACES = [
    Location("DE", "Saxony", "Leipzig", country_name="Germany"),
    Location("DE", "Hesse", "Frankfurt am Main", country_name="Germany"),
    Location("FI", "Uusimaa", "Helsinki", country_name="Finland"),
    Location("SG", None, "Singapore", country_name="Singapore"),
    Location("US", "Oregon", "Portland", country_name="United States"),
    Location("US", "Virginia", "Ashburn", country_name="United States"),
    Location("BR", "São Paulo", "São Paulo", country_name="Brazil"),
]


def make_server(seed, start, end, state=PeerState.ONLINE, **given):
    """A server with believable figures, all of which can be given."""
    rng = random.Random(str(seed))
    verdict = {PeerState.ONLINE: Verdict.REACHABLE, PeerState.UNREACHABLE: Verdict.UNREACHABLE}.get(
        state, Verdict.UNKNOWN
    )
    fields = {
        "peer_id": peer_id(seed),
        "state": state,
        "announced": PeerState.ONLINE if state is PeerState.UNREACHABLE else state,
        "span": Span(start, end),
        "show_public_name": state is PeerState.ONLINE and end - start >= 10,
        "throughput": rng.choice([256.0, 512.5, 980.2, 1422.0, 2108.6, 3688.5]),
        "verdict": verdict,
        "error": f"{message(Cause.TIMEOUT)} (i/o timeout)" if state is PeerState.UNREACHABLE else None,
        "cause": Cause.TIMEOUT.value if state is PeerState.UNREACHABLE else None,
        "public_name": rng.choice(NAMES),
        "version": rng.choice(["2.2.0.post1", "2.3.0.dev2", "2.1.0"]),
        "network_rps": round(rng.uniform(800, 9000), 1),
        "forward_rps": round(rng.uniform(2000, 90000), 1),
        "inference_rps": round(rng.uniform(90, 420), 1),
        "adapters": rng.choice(
            [(), (), (), ("artek0chumak/bloom-lora",), ("tloen/alpaca-lora-7b", "timdettmers/guanaco-65b")]
        ),
        "torch_dtype": rng.choice(["float16", "bfloat16"]),
        "quant_type": rng.choice(["nf4", "int8", "none"]),
        "using_relay": rng.random() < 0.3,
        "cache_tokens_left": rng.randrange(0, 65536 * 8),
        "multiaddrs": (f"/ip4/198.51.100.{rng.randrange(1, 250)}/tcp/31330",),
        "location": rng.choice(PLACES),
    }
    return ServerReport(**{**fields, **given})


def computed(server, outcome=InferenceOutcome.COMPUTED, **more):
    """The server with what an inference check proved of it, a minute and a half ago."""
    span = (server.span.start, server.span.end)
    return msgspec.structs.replace(server, inference=ServerInference(outcome, span, NOW - 90, 0.3, 0.12, **more))


def with_pings(servers, rng, most=6):
    """Each server with pings to some that hold later blocks, as real ones measure them."""
    pinged = []
    for server in servers:
        later = [other.peer_id for other in servers if other.span.start <= server.span.end < other.span.end]
        chosen = rng.sample(later, min(most, len(later)))
        pings = {target: float("inf") if rng.random() < 0.05 else rng.uniform(0.002, 0.25) for target in chosen}
        fields = {name: getattr(server, name) for name in server.__struct_fields__}
        pinged.append(ServerReport(**{**fields, "next_pings": pings or None}))
    return pinged


def make_model(prefix, num_blocks, servers, *, official=True, repository="", limited=False, name=None):
    """A report whose state follows from its servers, as the crawler would judge it."""
    name = name or prefix.removesuffix("-hf")
    report = ModelReport(
        dht_prefix=prefix,
        num_blocks=num_blocks,
        state=ModelState.BROKEN,
        name=name,
        short_name=name.rpartition("/")[2],
        repository=f"https://huggingface.co/petals-team/{prefix.removesuffix('-hf')}"
        if repository == ""
        else repository,
        official=official,
        limited=limited,
        servers=tuple(sorted(servers, key=lambda server: server.peer_id)),
    )
    return msgspec.structs.replace(report, state=coverage(report).state)


def make_snapshot(models, *, taken_at=NOW - 12, bootstrap=None, **given):
    """A snapshot whose issues and contributors follow from its models."""
    models = tuple(models)
    failed = {
        server.peer_id: server.error
        for model in models
        for server in model.servers
        if server.state is PeerState.UNREACHABLE
    }
    contributors: dict[str, int] = {}
    for model in models:
        for server in model.servers:
            if model.official and server.show_public_name and server.public_name:
                contributors[server.public_name] = contributors.get(server.public_name, 0) + server.span.length
    if bootstrap is None:
        ids = [peer_id(f"boot{n}") for n in range(4)]
        address = "/dns/bootstrap4.example.org/tcp/31337"
        bootstrap = (
            *(BootstrapPeer(p, (f"/ip4/203.0.113.7/tcp/31337/p2p/{p}",), Verdict.REACHABLE) for p in ids[:3]),
            BootstrapPeer(ids[3], (address,), Verdict.UNREACHABLE, message(Cause.TIMEOUT)),
        )
    fields = {
        "schema": SCHEMA_VERSION,
        "taken_at": taken_at,
        "update_period": 60.0,
        "update_duration": 8.4,
        "bootstrap_peers": bootstrap,
        "models": models,
        "reachability_issues": tuple(
            ReachabilityIssue(peer, error or "", advice(Cause.TIMEOUT)) for peer, error in failed.items()
        ),
        "top_contributors": dict(sorted(contributors.items(), key=lambda item: -item[1])),
    }
    return Snapshot(**{**fields, **given})


def random_servers(rng, label, count, num_blocks, *, gap=None):
    """`count` servers in all states; none that is online touches the blocks of `gap`."""
    states = [PeerState.ONLINE] * 14 + [PeerState.JOINING, PeerState.UNREACHABLE, PeerState.OFFLINE]
    servers = []
    while len(servers) < count:
        length = min(num_blocks, rng.choice([4, 8, 12, 20, 30, 40]))
        start = rng.randrange(0, num_blocks - length + 1)
        state = rng.choice(states)
        if gap and state is PeerState.ONLINE and start < gap[1] and start + length > gap[0]:
            continue
        servers.append(make_server(f"{label}{len(servers)}", start, start + length, state))
    return servers


def swarm_of_60() -> Snapshot:
    """60 servers in five models: healthy, thin, broken by a gap, private-looking, and one that nobody serves."""
    rng = random.Random(60)
    beluga = with_pings(
        [make_server(f"b{n}", *span) for n, span in enumerate([(0, 30), (30, 60), (60, 80)])]
        + random_servers(rng, "beluga", 21, 80),
        rng,
    )
    thin = with_pings([make_server(f"l{n}", *span) for n, span in enumerate([(0, 20), (16, 48), (48, 80)])], rng)
    falcon = with_pings(
        [make_server(f"f{n}", *span) for n, span in enumerate([(0, 20), (20, 37), (41, 60)])]
        + random_servers(rng, "falcon", 16, 60, gap=(37, 41)),
        rng,
    )
    mixtral = [make_server(f"x{n}", *span, public_name=None) for n, span in enumerate([(0, 12), (8, 24), (24, 32)])]
    bloom = [make_server("o0", 23, 70), make_server("o1", 0, 22), *random_servers(rng, "bloom", 9, 70, gap=(22, 23))]
    beluga[0] = computed(beluga[0], InferenceOutcome.NOT_FINITE, detail="NaN or infinity among the numbers")
    path = tuple(Hop(one.peer_id, one.span.start, one.span.end, seconds_per_step=0.12) for one in thin)
    path = (path[0], Hop(path[1].peer_id, 20, 48, relayed=True, seconds_per_step=0.2), path[2])
    return make_snapshot(
        [
            make_model("StableBeluga2-hf", 80, beluga),
            msgspec.structs.replace(
                make_model(
                    "Llama-2-70b-chat-hf",
                    80,
                    list(map(computed, thin)),
                    repository="https://huggingface.co/meta-llama/Llama-2-70b-chat-hf",
                ),
                usability=Usability(UsabilityState.DEGRADED, NOW - 90, "a hop is relayed", path, 0.9, 0.44),
            ),
            make_model("falcon-180B-chat", 60, falcon, limited=True, name="tiiuae/falcon-180B-chat"),
            make_model("CodeLlama-34b-Instruct-hf", 48, []),
            make_model(
                "bigscience/bloom-petals",
                70,
                bloom,
                official=False,
                repository="https://huggingface.co/bigscience/bloom",
            ),
            make_model("Mixtral-8x7B-Instruct-v0-1", 32, mixtral, official=False, repository=None),
        ],
        refused=Refusals({"undecodable": 3, "bad_span": 2}, {"undecodable": "falcon.3"}),
    )


def swarm_of(count: int, num_blocks: int = 80) -> Snapshot:
    """Many servers: half in one model, the rest in three."""
    rng = random.Random(count)
    shares = [count // 2, count // 4, count // 8, count - count // 2 - count // 4 - count // 8]
    models = []
    for n, share in enumerate(shares):
        servers = random_servers(rng, f"m{n}-", share, num_blocks)
        if count <= 2000:
            servers = with_pings(servers, rng)
        models.append(make_model(f"model-{n}-hf", num_blocks, servers, official=n < 2))
    return make_snapshot(models)


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
BIDI = "\u202egnp.exe\u202c\u200b"


def hostile_swarm() -> Snapshot:
    """Everything that a liar can write, had the crawler's edge let it through."""
    long = "A" * 5000
    evil = [
        make_server(
            "e0",
            0,
            12,
            public_name=EVIL,
            version=EVIL,
            torch_dtype=EVIL,
            quant_type=EVIL,
            adapters=(EVIL, "a/b" * 99, "../../x"),
        ),
        make_server(
            "e1", 12, 30, public_name="javascript:alert(3)", throughput=float("inf"), inference_rps=float("nan")
        ),
        make_server(
            "e2", 0, 30, public_name="https://huggingface.co@evil.example/", throughput=1e300, inference_rps=1e-300
        ),
        make_server("e3", 0, 30, public_name=BIDI + long, next_pings={EVIL: float("nan"), peer_id("e2"): -1.0}),
        make_server(
            "e4",
            4,
            5,
            PeerState.UNREACHABLE,
            error=EVIL + long,
            multiaddrs=(EVIL,),
            location=Location(EVIL, EVIL, EVIL),
        ),
        make_server(
            "e5", 0, 30, peer_id=EVIL, show_public_name=True, public_name="data:text/html,<script>alert(4)</script>"
        ),
    ]
    models = [
        make_model(f"evil/{EVIL}#?&%2e", 30, evil, name=EVIL, repository="javascript:alert(5)", official=False),
        make_model(
            "../../check",
            30,
            [make_server("e6", 0, 30, public_name="  ")],
            name=BIDI,
            repository="https://user:pw@evil.example/x",
        ),
        make_model("'onmouseover='alert(6)", 5, [], name=long, repository='https://evil.example/"onclick="alert(7)'),
        make_model("", 1, [], name="", repository="//evil.example"),
    ]
    return make_snapshot(
        models,
        top_contributors={EVIL: 10**30, "javascript:alert(8)": 3, BIDI: 2, "": 1},
        bootstrap=(BootstrapPeer(EVIL, (EVIL,), Verdict.UNKNOWN, EVIL),),
        reachability_issues=(ReachabilityIssue(EVIL, EVIL, EVIL),),
        refused=Refusals({EVIL: 1}, {EVIL: EVIL}),
    )


def private_empty() -> Snapshot:
    """A private swarm whose bootstrap peer answers and where nobody serves."""
    return make_snapshot(
        [make_model("my-local-llama", 24, [], repository=None)],
        private_swarm=True,
        bootstrap=(BootstrapPeer(peer_id("boot"), ("/ip4/10.0.0.7/tcp/31337",), Verdict.REACHABLE),),
    )


def make_view(snapshot=None, status=None, **given) -> View:
    fields = {
        "snapshot": snapshot,
        "status": status,
        "now": NOW,
        "redis_connected": True,
        "snapshot_id": None if snapshot is None else "1763900000000-0",
        "stale_after": 300.0,
    }
    return View(**{**fields, **given})


def failed_crawl(at: float = NOW - 180) -> CrawlStatus:
    peers = (
        BootstrapPeer(peer_id("boot"), ("/ip4/203.0.113.9/tcp/31337",), Verdict.UNREACHABLE, message(Cause.REFUSED)),
    )
    return CrawlStatus(attempted_at=at, ok=False, error="no bootstrap peer answered", bootstrap_peers=peers)


def check_view(*outcomes: DialOutcome, **given) -> CheckView:
    answers = (Answer(peer_id("checked"), f"vantage-{n}", NOW - 2, outcome) for n, outcome in enumerate(outcomes))
    return CheckView(tuple(answers), **given)


REACHED = DialOutcome(
    Verdict.REACHABLE,
    Stage.ANSWERED,
    addresses=("/ip4/198.51.100.7/tcp/31330",),
    relayed=False,
    rtt=0.0431,
    protocol_ok=True,
)
TIMED_OUT = DialOutcome(
    Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, "all dials failed: i/o timeout", ("/ip4/198.51.100.7/tcp/31330",)
)
STILL_JOINING = DialOutcome(
    Verdict.REACHABLE, Stage.PROTOCOL, Cause.PROTOCOL_MISSING, rtt=0.02, protocol_ok=False, relayed=True
)
NOBODY_LOOKED = DialOutcome.unknown(Cause.NO_SLOT)


def contributors():
    """Names of all kinds, hostile ones among them, with what each served."""
    days = (Day(int(NOW // DAY), 3600.0, 72_000.0),)
    names = [name for name in (*NAMES, EVIL, "healthy", "Аda") if name]
    return {
        name: Contributor(NOW - 9 * DAY, NOW - 60, 7200.0 - n, 144_000.0 - n, days, {EVIL: 9.0, "demo": 8.0})
        for n, name in enumerate(names)
    }
