"""Feed hostile DHT answers through the whole path to the reader: `python -m tests.support.fuzz_records --seconds 60`.

bytes → validating edge → snapshot → Redis document → page, JSON, text, metrics. Each form must come out, be
well-formed, and contain nothing that could break out of its context: no markup, control codes or broken metric lines.
Ends with the seed and the smallest input that fails, and with exit code 1.
"""

from __future__ import annotations

import argparse
import html.parser
import json
import math
import random
import sys
import time
from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics.legacy import LegacyCollector
from api.metrics.swarm import SwarmCollector
from api.pages import Pages, View
from crawler.judge import judge
from crawler.models import Model
from crawler.observe.observation import Observation, ObservedModel
from crawler.observe.record_reader import RecordReader
from crawler.observe.records import RefusedError, check_block, read_model
from shared.p2p.hivemind import MSGPackSerializer
from shared.p2p.raw_values import MergedDictionary, PackedDictionary
from shared.public.state import state_document
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import BootstrapPeer, Refusals, Snapshot, Verdict, decode, encode
from shared.text_picture import text_picture

OFFICIAL = Model("official-hf", 4, "https://huggingface.co/a/official")
PEERS = ("QmZLsVHqKCGWpqmwPmgxMhUuw2JxBBv7s5pTeDPcZwTkf3", "12D3KooWAjqxWeqejQ514XhY3i3g8D9fpsbFDSTjhkJCt9fuHZx2")
DIALS = (
    DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, rtt=0.1, protocol_ok=True),
    DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.OTHER, "<b>'\"}\\n{</b>"),
    DialOutcome.unknown(Cause.LOOKUP_UNFINISHED),
)
EXAMPLES_A_ROUND = 100
_pages = Pages()

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40) | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=15,
)
nasty_text = st.text(max_size=60) | st.sampled_from(
    ["<script>alert(1)</script>", "a\u202eb\x1b[31m", '"} 1\nx{y="', "\\", "javascript:alert(1)", "\ud800", " " * 30]
)
numbers = st.none() | st.floats() | st.integers(0, 2**63)
server_info = st.fixed_dictionaries(
    {},
    optional={
        "start_block": st.integers(-2, 1100), "end_block": st.integers(-2, 1100), "public_name": nasty_text,
        "version": nasty_text, "network_rps": numbers, "forward_rps": numbers, "inference_rps": numbers,
        "adapters": st.lists(nasty_text, max_size=4), "torch_dtype": nasty_text, "quant_type": nasty_text,
        "using_relay": st.booleans(), "cache_tokens_left": st.integers(0, 2**63), "anything": anything,
        "next_pings": st.dictionaries(st.sampled_from(PEERS) | nasty_text, st.floats(), max_size=3),
    },
)  # fmt: skip


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = MSGPackSerializer.dumps(value)
    except (ValueError, OverflowError, UnicodeEncodeError):
        return b""
    return packed


@st.composite
def _damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


_servers = st.tuples(st.integers(0, 3), st.floats(0, 1e12), server_info).map(_pack)
_models = st.fixed_dictionaries(
    {"num_blocks": st.integers(-1, 1100), "repository": st.none() | nasty_text | st.just(OFFICIAL.repository)}
).map(_pack)
raw_servers = _servers | _damaged(_servers) | anything.map(_pack) | st.binary(max_size=200)
raw_models = _models | _damaged(_models) | anything.map(_pack)
subkeys = st.sampled_from(PEERS) | nasty_text
hostile_index = st.dictionaries(
    st.from_regex(r"[a-z/<'\" .-]{1,12}", fullmatch=True) | nasty_text, raw_models, max_size=3
)
hostile_blocks = st.lists(st.tuples(st.integers(0, 5), subkeys, raw_servers), max_size=8)


def make_snapshot(
    index: dict[str, bytes], entries: list[tuple[int, str, bytes]], dials: tuple[DialOutcome, ...]
) -> Snapshot:
    """Make a snapshot of what stands in the DHT, each model having the same entries `(block, subkey, value)`."""
    refused: Counter[str] = Counter()
    models = [OFFICIAL]
    for prefix, packed in index.items():
        try:
            models.append(read_model(prefix, packed, private_swarm=True))
        except RefusedError as error:
            refused[str(error)] += 1
    reader, observed = RecordReader(()), []
    dialled: dict[str, DialOutcome] = {}
    for model in models:
        announcements: dict[str, dict[int, Any]] = {}
        for block, subkey, packed in entries:
            try:
                peer_id, record = reader.read(model.dht_prefix, subkey, packed)
                check_block(record, block)
            except RefusedError as error:
                refused[str(error)] += 1
                continue
            if block < model.num_blocks:
                announcements.setdefault(peer_id, {})[block] = record
                dialled[peer_id] = dials[len(dialled) % len(dials)]
        observed.append(ObservedModel(model, announcements))
    observation = Observation(
        bootstrap_peers=(BootstrapPeer(PEERS[0], ("/ip4/127.0.0.1/tcp/1",), Verdict.REACHABLE),),
        models=tuple(observed),
        dials=dialled,
        addresses={},
        refused=Refusals(dict(refused)),
        unanswered_keys=0,
        crawler_peer_id=PEERS[1],
        versions=dict.fromkeys(PEERS, "2.2.0"),
    )
    return judge(observation, 60.0)


class _Markup(html.parser.HTMLParser):
    """Refuses what the templates never write."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or (name in ("href", "src") and not (value or "").startswith(("/", "#", "http"))):
                raise AssertionError(f"<{tag} {name}={value!r}>")


def every_form(snapshot: Snapshot) -> None:
    """Make all that readers get. Raise `AssertionError` where something is malformed or unsafe."""
    read = decode(encode(snapshot))
    assert read == snapshot
    json.loads(msgspec.json.encode(state_document(read)), parse_constant=_no_constant)
    picture = text_picture(read)
    assert all(line.isprintable() for line in picture.splitlines()), "control codes in the picture"
    view = View(read, None, 3.0, redis_connected=True, snapshot_id="1-0", stale_after=180.0)
    written = [_pages.overview(view)]
    for model in read.models:
        written.append(_pages.model(view, model.dht_prefix) or "")
        written += [_pages.server(view, server.peer_id) or "" for server in model.servers]
    for page in written:
        assert "<script>alert" not in page, "a name became markup"
        _Markup().feed(page)
    registry = CollectorRegistry()
    registry.register(LegacyCollector(read))
    registry.register(SwarmCollector(read))
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert not family.name.startswith("x"), "a label became a metric"
        assert not any(math.isnan(sample.value) and family.name.startswith("petals_") for sample in family.samples)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def fuzz(seconds: float, first_seed: int) -> int:
    """Run until the time is over; return how many examples passed."""
    ends, number, passed = time.monotonic() + seconds, first_seed, 0
    while time.monotonic() < ends:

        @seed(number)
        @settings(max_examples=EXAMPLES_A_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(hostile_index, hostile_blocks, st.permutations(DIALS), st.binary(max_size=200))
        def once(
            index: dict[str, bytes], blocks: list[tuple[int, str, bytes]], dials: list[DialOutcome], answer: bytes
        ) -> None:
            MergedDictionary(Counter()).add(PackedDictionary(answer))
            every_form(make_snapshot(index, blocks, tuple(dials)))

        print(f"seed {number}: ", end="", flush=True)
        once()
        passed += EXAMPLES_A_ROUND
        print("ok", flush=True)
        number += 1
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz_records", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration (default 60)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="seed of the first round")
    arguments = parser.parse_args()
    print(f"{fuzz(arguments.seconds, arguments.seed)} examples passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
