"""A snapshot whose every text is what a liar would write, had the crawler's edge let it through."""

from shared.snapshot import BootstrapPeer, PeerState, Refusals, Verdict
from tests.fakes import model, server, snapshot

NASTY = (
    'quote" } 1\nfake_metric{a="b"} 1',
    "new\nline",
    "carriage\r\nreturn",
    "back\\slash\\",
    "bidi \u202egnp.exe\u202c \u2028 \u200b",
    "nul \x00 and bell \x07",
    "{}=,\"'`<script>",
    "日本語 😀",
    "(other)",
    "",
)


def hostile_snapshot():
    models = []
    for number, text in enumerate(NASTY):
        servers = [
            server(number, 0, 4, version=text, adapters=(text, text), next_pings={text: float("nan"), "a": -1.0}),
            server(100 + number, 2, 4, PeerState.UNREACHABLE, public_name=text, inference_rps=float("inf")),
            server(200 + number, 0, 3, cache_tokens_left=10**12, network_rps=float("nan"), next_pings={"b": 0.2}),
        ]
        models.append(model(text, 4, tuple(servers), name=text))
    return snapshot(
        *models,
        refused=Refusals(dict.fromkeys(NASTY, 3), dict.fromkeys(NASTY, "x")),
        bootstrap_peers=(BootstrapPeer(NASTY[0], (NASTY[0],), Verdict.UNKNOWN, NASTY[0]),),
        unanswered_keys=2,
    )
