"""What inference checks proved is said first, with its age, and apart from what is announced and found."""

import msgspec
import pytest

from api.pages import Pages
from api.pages.badge import BadgeMetric, model_badge
from shared.inference import (
    Hop,
    InferenceOutcome,
    ServerInference,
    Usability,
    UsabilityState,
)
from shared.snapshot import Verdict
from shared.store.inference_history import Proof
from shared.store.rings import HOUR
from shared.text_picture import text_picture
from tests import fakes
from tests import page_snapshots as made
from tests.api.pages.test_pages import Page

NOW = made.NOW
SPEED = "0.4 s per token over 2 servers"
COMPUTED = ServerInference(InferenceOutcome.COMPUTED, (0, 4), NOW - 90, 0.5, 0.2)


def proved(state=UsabilityState.USABLE, reason=None, **more):
    """A model of two halves, and the chain through both."""
    servers = (fakes.server(1, 0, 4, inference=COMPUTED), fakes.server(2, 4, 8))
    path = tuple(Hop(one.peer_id, one.span.start, one.span.end, seconds_per_step=0.2) for one in servers)
    found = Usability(state, NOW - 90, reason, path, 0.9, 0.4)
    return fakes.model(**{"blocks": 8, "usability": found, "servers": servers, **more})


def test_the_proof_stands_first_on_card_and_page():
    """Before coverage, estimate and claims; with the path on the strip, and when it was measured."""
    model = proved()
    view, pages = made.make_view(made.make_snapshot([model])), Pages()
    for html in (pages.overview(view), pages.model(view, model.dht_prefix)):
        page = Page(html)
        assert page.text.index("Usable now: 0.4 s per token over 2 servers.") < page.text.index("blocks covered")
        assert "from this monitor’s place" in page.text
        assert len(page.all("rect", **{"class": "hop"})) == 3
        assert not page.unbalanced


def test_checks_over_time_are_drawn_and_in_words():
    """Of a model and of a server: the share that gave numbers, seconds per token, and how the others ended."""
    began = int(NOW) // HOUR * HOUR
    proofs = (Proof(began - 2 * HOUR, 3, 3, "computed", 0.4), Proof(began, 1, 0, "timeout"))
    model = proved()
    view, pages = made.make_view(made.make_snapshot([model])), Pages()
    peer = model.servers[0].peer_id
    for html in (
        pages.model(view, model.dht_prefix, history=made.model_past(proofs)),
        pages.server(view, peer, history=made.server_past(peer, proofs)),
    ):
        page = Page(html)
        assert not page.unbalanced
        assert "Last 24 hours 75.0 %" in page.text
        assert "1 of 1 check gave no numbers; lastly it does not answer a step of inference in time" in page.text
        assert page.all("svg", **{"aria-label": "Gave numbers in the Last 7 days: 75.0 %", "role": "img"})
        (curve,) = page.all("svg", **{"aria-label": "Time per token, last 7 days: at least 400, at most 400, 400 ms"})
        assert curve["role"] == "img"
        ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
        assert len(ids) == len(set(ids))


def test_a_servers_page_keeps_three_kinds_of_facts_apart():
    broken = msgspec.structs.replace(COMPUTED, outcome=InferenceOutcome.FAILED, detail="<b>out of luck</b>")
    refused = msgspec.structs.replace(broken, outcome=InferenceOutcome.REFUSED, adapter="lab/lora")
    server = fakes.server(1, 0, 4, inference=broken, adapter_inference=refused, verdict=Verdict.REACHABLE)
    snapshot = msgspec.structs.replace(made.make_snapshot([proved(servers=(server,))]), inference_peer_id="QmMonitor")
    view = made.make_view(snapshot)
    html = Pages().server(view, server.peer_id)
    page = Page(html)
    assert "Proved by a computation" in page.text
    assert "Fails when it is asked to compute" in page.text
    assert "is online, but does not compute" in page.text
    assert "Refuses the LoRA lab/lora" in page.text
    assert "as from peer …onitor" in page.text
    assert "contains #no-inference-checks is never asked" in page.text
    assert "<b>out of luck" not in html
    assert "Found by dialling" in page.text
    assert "the server announces" in page.text


def test_a_model_that_gives_no_tokens_is_nowhere_called_usable():
    """Every block is served: the chips, the figures and the verdict say all the same that it cannot be used."""
    model = proved(UsabilityState.UNUSABLE, "blocks 0:4: not_finite", official=True)
    page = Page(Pages().overview(made.make_view(made.make_snapshot([model]))))
    assert "0 / 1 models usable" in page.text
    assert "can be used now" not in page.text.replace("cannot be used now", "")
    assert not page.all("a", **{"class": "chip good"})


@pytest.mark.parametrize(
    ("model", "usable", "speed"),
    [
        (proved(), "usable", "0.4 s per token"),
        (proved(UsabilityState.DEGRADED), "degraded", "0.4 s per token"),
        (proved(UsabilityState.UNUSABLE), "unusable", "unusable"),
        (proved(UsabilityState.UNKNOWN), "not proved", "not proved"),
        (proved(usability=None), "not proved", "not proved"),
    ],
)
def test_badges_show_what_was_proved(model, usable, speed):
    view = made.make_view(made.make_snapshot([model]))
    said = [model_badge(metric, model, view, None).message for metric in (BadgeMetric.USABLE, BadgeMetric.SPEED)]
    assert said == [usable, speed]


def test_the_text_picture_marks_a_server_that_does_not_compute():
    """With a character of its own, which the legend explains."""
    broken = msgspec.structs.replace(COMPUTED, outcome=InferenceOutcome.NOT_FINITE)
    servers = (fakes.server(1, 0, 4, inference=broken), fakes.server(2, 4, 8))
    picture = text_picture(made.make_snapshot([proved(servers=servers)]))
    assert "|XXXX    |" in picture
    assert "|    ####|" in picture
    assert "X - online" in picture
