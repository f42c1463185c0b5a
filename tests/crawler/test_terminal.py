"""`--watch` fits its terminal, whatever the swarm and the size; keys filter, scroll and quit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.terminal.frame import Choice, Seen, cells, frame
from crawler.terminal.screen import keys
from crawler.terminal.watch import pressed
from shared.snapshot import CrawlProgress, PeerState
from tests.fakes import model, peer_id, server, snapshot

NOW = 1_800_000_000.0
SGR = re.compile(r"\x1b\[[0-9;]*m")


def drawn(*models, choice=None, width=80, height=24, at=NOW, **seen):
    shown = Seen(snapshot(*models, taken_at=NOW), **seen) if models else Seen(**seen)
    return [SGR.sub("", line) for line in frame(shown, choice or Choice(), width=width, height=height, now=at)]


LARGE = model(
    "Llama-2-70b-chat-hf", 80, (server(1, 0, 37), server(2, 37, 41, PeerState.UNREACHABLE), server(3, 41, 80))
)
SMALL = model("small", 4, (server(4, 0, 4, public_name="Ada", show_public_name=True), server(5, 0, 4)))


def test_the_verdict_comes_first_and_the_reason_is_beside_it():
    """On 80 × 24: the swarm, each model with what is wrong, the broken one first."""
    lines = drawn(SMALL, LARGE)
    assert lines[0].startswith("The swarm is partly healthy: 1 of 2 models can be used, 5 servers")
    assert lines[2].startswith("DOWN Llama-2-70b-chat-hf")
    assert "Blocks 37–40 have no online server." in lines[2]
    assert lines[3].startswith("OK   small")
    assert lines[-1].startswith("q quit  / filter")


def test_eighty_blocks_are_compressed_and_a_gap_of_four_is_still_seen():
    """A column shows the worst of its blocks."""
    lines = drawn(LARGE)
    assert any("80 blocks, 3 per column" in line or "80 blocks, 2 per column" in line for line in lines)
    bar = next(line for line in lines if "|" in line and "!" in line)
    assert re.search(r"\|1+!+1+\|", bar)
    row = next(line for line in lines if line.startswith(f"...{peer_id(2)[-6:]}"))
    assert re.search(r"\| +\?+ +\| 37–40  100 tokens/s", row)
    wide = drawn(LARGE, width=200)
    assert any(f"|{'1' * 37}!!!!{'1' * 39}|" in line for line in wide)


NAMES = st.text(max_size=60) | st.sampled_from(["模型" * 20, "e\u0301" * 30, "\x1b[2J", "\u202egnp", "a\nb", "🐍" * 40])
SERVERS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 90), st.sampled_from(PeerState), NAMES), max_size=12)


def announced(blocks, servers):
    for number, (start, length, state, name) in enumerate(servers):
        first = min(start, blocks - 1)
        last = min(blocks, first + length)
        yield server(number, first, last, state, public_name=name, show_public_name=True)


@given(
    st.lists(st.tuples(NAMES, st.integers(1, 120), SERVERS), max_size=4),
    st.integers(0, 200),
    st.integers(0, 60),
    NAMES,
    st.integers(0, 10**6),
)
def test_no_frame_is_larger_than_its_terminal(made, width, height, filtered, scroll):
    """Nor has it anything that moves a cursor: names are hostile."""
    models = [model(name, blocks, tuple(announced(blocks, servers))) for name, blocks, servers in made]
    choice = Choice(scroll, filtered)
    seen = Seen(snapshot(*models, taken_at=NOW), "no bootstrap peer answered\x1b[2J")
    lines = frame(seen, choice, width=width, height=height, now=NOW)
    assert len(lines) == height
    for line in lines:
        plain = SGR.sub("", line)
        assert plain.isprintable()
        assert cells(plain) <= width


def test_old_data_is_told_in_the_past_tense():
    assert drawn(LARGE, at=NOW + 420)[0] == "The swarm was broken when last seen, 7 minutes ago"


def test_before_the_first_snapshot_the_crawl_is_told():
    lines = drawn(progress=CrawlProgress("dialling", servers=3, dialled=1, to_dial=2))
    assert lines[0] == "Nothing is known yet: the first crawl is running"
    assert lines[1] == "A crawl runs: dialling servers, 3 servers found, 1 of 2 dialled"
    assert drawn(LARGE, problem="no bootstrap peer answered")[1] == "The last crawl failed: no bootstrap peer answered"


@pytest.mark.parametrize(
    ("text", "numbers"), [("", {1, 2, 3, 4, 5}), ("small", {4, 5}), ("ada", {4}), ("unreachable", {2}),
                          ("…" + peer_id(3)[-6:], {3}), ("nobody", set())],
)  # fmt: skip
def test_a_filter_leaves_what_it_names(text, numbers):
    lines = drawn(SMALL, LARGE, choice=Choice(filter=text), height=60)
    rows = {line.split()[0] for line in lines if line.startswith("...")}
    assert rows == {f"...{peer_id(n)[-6:]}" for n in numbers}
    assert ("Nothing fits the filter." in lines) == (not numbers)


def test_every_server_comes_into_view_by_scrolling():
    """Of more than fit; and nothing is scrolled past the end."""
    many = model("many", 40, tuple(server(n, n, n + 1) for n in range(40)))
    choice, seen = Choice(), set()
    for _ in range(60):
        lines = "\n".join(drawn(many, choice=choice))
        seen |= {n for n in range(40) if peer_id(n)[-6:] in lines}
        pressed(choice, "down", page=10)
    assert seen == set(range(40))
    pressed(choice, "end", page=10)
    assert peer_id(39)[-6:] in "\n".join(drawn(many, choice=choice))
    assert choice.scroll < 40


def test_keys_type_a_filter_and_quit():
    """`q` in a filter is a letter; Escape clears it."""
    choice = Choice()
    for key in keys(b"/q\x7fada\r"):
        assert not pressed(choice, key, page=10)
    assert (choice.filter, choice.typing) == ("ada", False)
    assert not pressed(choice, "escape", page=10)
    assert choice.filter == ""
    assert pressed(choice, "q", page=10)


def test_keys_are_read_from_what_terminals_send():
    assert keys(b"\x1b[A\x1b[5~j\x1b") == ["up", "page up", "j", "escape"]


@given(st.binary(max_size=50))
def test_whatever_a_terminal_sends_is_keys_or_nothing(data):
    choice = Choice()
    for key in keys(data):
        pressed(choice, key, page=10)
    assert choice.filter.isprintable()
