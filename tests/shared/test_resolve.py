"""Whatever is pasted: what it names is found, what it nearly names is suggested, and nothing of it does harm."""

import base64
import string

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.hidden import snapshot_without_addresses
from shared.paste import MAX_KEPT, MAX_READ, MAX_WORDS
from shared.peer_id import named_peer
from shared.resolve import (
    MAX_COMPARED,
    MAX_FOUND,
    MAX_NAME,
    MAX_SUGGESTIONS,
    Directory,
    Form,
    Kind,
    _differing,
    _likeness,
    _pairs,
)
from tests.fakes import model, peer_id, resolve, server, snapshot

ONE, TWO, RELAY, BOOTSTRAP = peer_id(1), peer_id(2), peer_id(9), peer_id(0)
STRANGER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
SWARM = snapshot(
    model(
        "StableBeluga2-hf", 8,
        (
            server(1, 0, 4, public_name="Ada's GPUs", show_public_name=True, multiaddrs=("/ip4/45.1.1.9/tcp/31330",)),
            server(2, 4, 8, public_name="healthy", show_public_name=True,
                   multiaddrs=("/ip6/2001:db8::1/tcp/31330", "/dns4/gpu.example.org/tcp/4001",
                               f"/ip4/203.0.113.7/tcp/1/p2p/{RELAY}/p2p-circuit")),
        ),
        name="petals-team/StableBeluga2", short_name="StableBeluga2",
        repository="https://huggingface.co/petals-team/StableBeluga2",
    ),
    model("bigscience/bloom-petals", 4, (server(3, 0, 4, public_name="bloom",
                                               multiaddrs=("/ip4/45.1.1.9/tcp/4", "/dns4/bloom/tcp/1")),),
          name="bigscience/bloom", short_name="bloom"),
    model("XGen-1.5", 2, ()),
    model("healthy", 2, ()),
)  # fmt: skip


def look_up(text):
    return Directory.of(SWARM).resolve(text)  # made anew: a mutant of how it is made shows


def found(text):
    return [(match.kind, match.key) for match in look_up(text).found]


def suggested(text):
    resolution = look_up(text)
    assert not resolution.found or all(match.kind is Kind.PEER for match in resolution.found)
    return [(match.kind, match.key) for match in resolution.suggestions]


def spellings(peer):
    cid = b"\x01\x72" + base58.b58decode(peer)
    digits, number, base36 = string.digits + string.ascii_lowercase, int.from_bytes(cid, "big"), ""
    while number:
        number, rest = divmod(number, 36)
        base36 = digits[rest] + base36
    base32 = base64.b32encode(cid).decode().rstrip("=").lower()
    return [peer, "b" + base32, "k" + base36, "f" + cid.hex(), "z" + base58.b58encode(cid).decode()]


@pytest.mark.parametrize("written", spellings(ONE))
@pytest.mark.parametrize(
    "around",
    [
        "{}", "  {}\n", "https://monitor.example/servers/{}?x=1#y", "/check/{}", "'{}',", "[{}]", "PeerID({})",
        "/p2p/{}", "Nov 26 13:33:02.171 [INFO] Announced {}: joined", "\u202e{}\u200b", "<script>{}</script>",
    ],
)  # fmt: skip
def test_a_peer_id_is_found_in_every_spelling_wherever_it_stands(written, around):
    assert found(around.format(written)) == [(Kind.SERVER, ONE)]


@pytest.mark.parametrize(
    "short", [f"...{ONE[-6:]}", f"…{ONE[-6:]}", ONE[-6:], f"{ONE[:4]}…{ONE[-6:]}", ONE[-8:].upper()]
)
def test_a_short_id_is_found_as_the_table_writes_it(short):
    assert found(short) == [(Kind.SERVER, ONE)]
    assert look_up(short).form is Form.PEER_ID


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (BOOTSTRAP, [(Kind.BOOTSTRAP, BOOTSTRAP)]),
        (STRANGER, [(Kind.PEER, STRANGER)]),
        (f"{ONE} {TWO}", [(Kind.SERVER, ONE), (Kind.SERVER, TWO)]),
        ("45.1.1.9", [(Kind.SERVER, ONE), (Kind.SERVER, peer_id(3))]),
        ("/ip4/45.1.1.9/tcp/31330", [(Kind.SERVER, ONE)]),
        ("http://45.1.1.9:31330/x", [(Kind.SERVER, ONE), (Kind.SERVER, peer_id(3))]),
        ("[2001:DB8:0::1]:31330", [(Kind.SERVER, TWO)]),
        ("gpu.example.org", [(Kind.SERVER, TWO)]),
        ("GPU.example.ORG:4001", [(Kind.SERVER, TWO)]),
        ("127.0.0.1", [(Kind.BOOTSTRAP, BOOTSTRAP)]),
        ("petals-team/StableBeluga2", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("stablebeluga2", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("StableBeluga2-hf.17", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("https://huggingface.co/petals-team/StableBeluga2/tree/main", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("https://monitor.example/models/bigscience%2Fbloom-petals?x=1", [(Kind.MODEL, "bigscience/bloom-petals")]),
        ("huggingface.co/petals-team/StableBeluga2#files", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("/models/StableBeluga2-hf/", [(Kind.MODEL, "StableBeluga2-hf")]),
        (f"...{ONE[-6:]} ...{TWO[-6:]}", [(Kind.SERVER, ONE), (Kind.SERVER, TWO)]),
        ("/incidents?model=StableBeluga2-hf&state=open", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("https://m.example/models/StableBeluga2-hf?back=/models/m#/models/m", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("https://huggingface.co/petals-team/StableBeluga2?back=huggingface.co/m", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("[INFO] Loading bigscience/bloom-petals.", [(Kind.MODEL, "bigscience/bloom-petals")]),
        ("Loading XGen-1.5: X", [(Kind.MODEL, "XGen-1.5")]),
        ("ada's gpus", [(Kind.CONTRIBUTOR, "Ada's GPUs")]),
        # Who is named like a model or a verdict is found beside it, as what it is; a host name without a dot is none.
        ("healthy", [(Kind.MODEL, "healthy"), (Kind.CONTRIBUTOR, "healthy")]),
        ("bloom", [(Kind.MODEL, "bigscience/bloom-petals"), (Kind.CONTRIBUTOR, "bloom")]),
    ],
)  # fmt: skip
def test_what_is_named_is_found(text, names):
    assert found(text) == names
    assert (look_up(text).sentence == "") == (names[0][0] is not Kind.PEER)


def test_a_multiaddr_is_kept_as_given_so_that_a_check_can_dial_it():
    """Direct ones, those of a peer that the swarm does not know, and circuits: the last id is the peer."""
    circuit = f"/ip4/203.0.113.7/tcp/1/p2p/{RELAY}/p2p-circuit"
    pasted = f"['/ip4/198.51.100.4/tcp/31337/p2p/{STRANGER}', '{circuit}/p2p/{STRANGER}', '/ip4/1.2.3.4/tcp/5']"
    (match,) = look_up(pasted).found
    assert (match.kind, match.key) == (Kind.PEER, STRANGER)
    assert match.addresses == ("/ip4/198.51.100.4/tcp/31337", circuit)
    in_another_spelling = f"/dns/h.example/tcp/1/ipfs/{spellings(ONE)[1]}"
    assert look_up(in_another_spelling).only.addresses == ("/dns/h.example/tcp/1",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ONE[:20] + ("x" if ONE[20] != "x" else "y") + ONE[21:], [(Kind.SERVER, ONE)]),  # a letter mistyped
        (ONE[:20] + ONE[21:], [(Kind.SERVER, ONE)]),  # one left out
        (ONE[:20] + ONE[21] + ONE[20] + ONE[22:], [(Kind.SERVER, ONE)]),  # two swapped
        (ONE[:-2], [(Kind.SERVER, ONE)]),  # cut off
        (ONE[:15], [(Kind.SERVER, ONE)]),
        (f"my id is \N{LATIN SMALL LETTER E WITH ACUTE}{ONE[:-2]}", [(Kind.SERVER, ONE)]),
        (ONE.lower(), [(Kind.SERVER, ONE)]),
        ("..." + ONE[-6:].swapcase(), [(Kind.SERVER, ONE)]),
        (f"…{ONE[-6:-1]}{'x' if ONE[-1] != 'x' else 'y'}", [(Kind.SERVER, ONE)]),
        ("petals/StableBeluga-2", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("beluga", [(Kind.MODEL, "StableBeluga2-hf")]),
        ("ada gpu", [(Kind.CONTRIBUTOR, "Ada's GPUs")]),
        ("/ip4/45.1.1.9/tcp/99", [(Kind.SERVER, ONE), (Kind.SERVER, peer_id(3))]),
        ("\N{CYRILLIC SMALL LETTER HA}ealthy", [(Kind.MODEL, "healthy"), (Kind.CONTRIBUTOR, "healthy")]),
        ("zzzz", []),
    ],
)  # fmt: skip
def test_what_is_nearly_named_is_suggested(text, names):
    """A look-alike name is not the name: it is suggested, never found."""
    assert suggested(text) == names
    assert look_up(text).sentence


def test_names_that_are_not_shown_are_found_but_not_proposed():
    """A public name is shown once it is earned; who knows it may still look for it."""
    swarm = snapshot(model("m", 2, (server(1, 0, 1, public_name="Visit example.com today"),)))
    assert [match.kind for match in resolve("visit example.com today", swarm).found] == [Kind.CONTRIBUTOR]
    assert resolve("visit example.com now", swarm).suggestions == ()


def test_hidden_addresses_find_nothing():
    """Where the operator hides addresses, nobody learns whose one is by asking for it."""
    for text in ("45.1.1.9", "/ip4/45.1.1.9/tcp/31330", "/ip4/45.1.1.9/tcp/9", "gpu.example.org"):
        hidden = resolve(text, snapshot_without_addresses(SWARM))
        assert (hidden.found, hidden.suggestions) == ((), ())


def test_addresses_are_found_unless_they_are_hidden():
    """But never that of a relay: it is another machine's."""
    assert [match.key for match in resolve("45.1.1.9", SWARM).found] == [ONE, peer_id(3)]
    assert found("203.0.113.7") == found("203.0.113.7:1") == []


def test_upper_and_lower_case_count_where_both_occur():
    """An ending in the one case finds that peer alone, in a third case both."""
    ids = ["QmExactlyxabCD", "QmOtherwiseABcd"]
    directory = Directory(peers=dict.fromkeys(ids, Kind.SERVER), _by_end={"abcd": ids})
    assert [match.key for match in directory.resolve("abCD").found] == ids[:1]
    assert [match.key for match in directory.resolve("ABCD").found] == ids


def test_of_a_short_id_the_last_six_letters_are_compared():
    """One of them may be wrong, and what stands before them does not count."""
    wrong = "x" if ONE[-1] != "x" else "y"
    other = "z" if ONE[-7] != "z" else "w"
    assert suggested(f"…{other}{ONE[-6:-1]}{wrong}") == [(Kind.SERVER, ONE)]
    assert suggested(f"…{ONE[-6:-2]}{'x' if ONE[-2] != 'x' else 'y'}{wrong}") == []


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "xbc", 1), ("abc", "abx", 1), ("abcd", "axyd", 2), ("aab", "ab", 1),
     ("abc", "", 3), ("abcde", "xbcdy", 5)],
)  # fmt: skip
def test_letters_between_a_common_start_and_a_common_end(one, other, letters):
    assert _differing(one, other) == _differing(other, one) == letters


def test_a_piece_of_an_id_is_suggested_where_few_have_it():
    """Of four letters and more, in any case; dots and blanks around it are no part of it."""
    ids = [f"Qm{number}zzXBcXzz" for number in range(MAX_SUGGESTIONS)]
    few, many = (Directory(peers=dict.fromkeys(each, Kind.SERVER)) for each in (ids, [*ids, "Qm9zzXBcXzz"]))
    assert [match.key for match in few._containing(" ..XbCX… ")] == ids
    assert few._containing("xbc") == many._containing("xbcx") == []
    long = Directory(peers={"Qm" + "a" * MAX_NAME: Kind.SERVER})
    assert long._containing("a" * MAX_NAME)
    assert long._containing("a" * (MAX_NAME + 1)) == []


def test_likeness_is_the_share_of_pairs_in_common():
    """Counted from both: one where all are, none where no pair is."""
    assert _pairs("ab") == {" a", "ab", "b "}
    assert _likeness(_pairs("ab"), _pairs("ab")) == 1
    assert _likeness(_pairs("ab"), _pairs("cd")) == 0
    assert _likeness(_pairs("abc"), _pairs("abd")) == 0.5


def test_the_most_similar_name_is_suggested_first():
    """Down to half of the pairs in common; and of a huge swarm only the first names are compared."""
    swarm = snapshot(model("alpha-one"), model("alpha-two"), model("abc"))
    assert [match.key for match in resolve("alpha-twoo", swarm).suggestions] == ["alpha-two", "alpha-one"]
    assert [match.key for match in resolve("abd", swarm).suggestions] == ["abc"]
    names = [*map(str, range(MAX_COMPARED)), "alpha"]
    huge = Directory(models={name: [name] for name in names}, titles={name: name for name in names})
    assert huge.resolve("alph").suggestions == ()


def test_a_model_is_found_by_the_name_of_its_repository():
    """Whatever it is called in the swarm; what stands after the Hub's address is its name there."""
    for address in ("https://huggingface.co/Team/Weights/", "Team/Weights", "https://huggingface.co/Team/Weights"):
        one = model("m-hf", 1, (), name="m", short_name="m", repository=address)
        match = resolve("team/weights", snapshot(one)).only
        assert (match is not None) == ("://" in address)


def test_of_an_id_three_letters_in_one_place_may_be_wrong():
    """Or missing at its end; and one peer whose id has another length hides none of the others."""
    for letters, count in ((3, 1), (4, 0)):
        mistyped = (
            ONE[:20] + "".join("x" if each != "x" else "y" for each in ONE[20 : 20 + letters]) + ONE[20 + letters :]
        )
        assert len(look_up(mistyped).suggestions) == count
    short = replace(server(2, 0, 4), peer_id="QmShort")
    directory = Directory.of(snapshot(model("m", 4, (short, server(1, 0, 4)))))
    assert [match.key for match in directory._near_peers(ONE[:-3])] == [ONE]
    assert directory._near_peers(ONE[:-4]) == []


def test_what_is_known_suggests_nothing_else():
    """Of more than can be shown the rest is counted."""
    assert (look_up(ONE).suggestions, look_up("beluga2 healthy").suggestions) == ((), ())
    assert look_up(STRANGER).form is look_up(ONE).form is Form.PEER_ID
    servers = (server(n, 0, 1, multiaddrs=("/ip4/45.1.1.9/tcp/1",)) for n in range(MAX_FOUND + 3))
    crowd = resolve("45.1.1.9", snapshot(model("m", 1, tuple(servers))))
    assert (len(crowd.found), crowd.more) == (MAX_FOUND, 3)


def test_all_that_is_named_at_once_is_found():
    assert {key for _, key in found("45.1.1.9 gpu.example.org")} == {ONE, TWO, peer_id(3)}


@pytest.mark.parametrize(
    ("filler", "last"), [("x", "45.1.1.9"), ("x", "bigscience/bloom-petals"), ("…zzzz", f"…{ONE[-6:]}")]
)
def test_only_the_first_words_of_a_paste_are_looked_up(filler, last):
    """As many as `MAX_WORDS`: short ones cost no more time than that."""
    words = [filler] * (MAX_WORDS - 1)
    assert found(" ".join([*words, last]))
    assert not found(" ".join([*words, filler, last]))


@pytest.mark.parametrize("text", ["zzz.zzz", "v1.2", "unknown.example.org"])
def test_a_word_with_a_dot_is_no_address_unless_somebody_announces_it(text):
    assert look_up(text).form is Form.NAME


def test_what_has_no_name_to_show_is_said_so():
    nameless = Directory(titles={"m": "\u200b"}, peers={})
    assert nameless._model("m").text == nameless._contributor("\u200b").text == "(nameless)"
    assert nameless._contributor("Ada").text == "Ada"
    assert look_up("stablebeluga2").only.text == "petals-team/StableBeluga2"
    assert look_up(ONE).only.text == named_peer(ONE)


def test_nothing_is_known_without_a_snapshot():
    """But an id is one."""
    assert resolve("beluga", None).found == ()
    assert resolve(ONE, None).only.kind is Kind.PEER


@pytest.mark.parametrize("text", ["", " \n\t", "\u202e\u200b\u2066", "\x00\x1b"])
def test_what_has_no_letter_asks_for_some(text):
    assert look_up(text).form is Form.EMPTY


PIECES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [ONE, TWO, STRANGER, "…", "...", "/ip4/", "45.1.1.9", "/p2p/", "/p2p-circuit", "%2F", "%", "/models/", "\u202e",
         "huggingface.co/", "12D3Koo", "Qm", "::", "healthy", "<script>", " ", "\n", "Ada's GPUs", "=", "?", "\ud800"]
    ),
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join))
def test_no_text_raises_or_is_given_back_unfit_for_showing(text):
    """Found or not, what comes back is printable, bounded, and names only what is there."""
    directory = Directory.of(SWARM)
    resolution = directory.resolve(text)
    assert len(resolution.pasted) <= MAX_KEPT
    assert len(resolution.found) <= MAX_FOUND
    assert len(resolution.suggestions) <= MAX_SUGGESTIONS
    for shown in (resolution.pasted, *(match.text for match in resolution.found + resolution.suggestions)):
        assert shown.isprintable()
    for match in resolution.found + resolution.suggestions:
        assert match.kind is Kind.PEER or match.key in {
            *directory.peers,
            *directory.titles,
            "Ada's GPUs",
            "healthy",
            "bloom",
        }
    assert bool(resolution.sentence) == (not any(match.kind is not Kind.PEER for match in resolution.found))


@given(
    st.text(alphabet="<>&\"'\u202e\u200b x", max_size=20),
    st.sampled_from(spellings(ONE)),
    st.text(" \n\u202e,;", max_size=5),
)
def test_an_id_is_found_in_whatever_stands_around_it(before, written, after):
    assert (Kind.SERVER, ONE) in found(f"{before} {written}{after}")


HOSTILE = [
    "a",
    "1",
    "Qm",
    "...",
    "…aaaa",
    "/ip4/",
    "/p2p/",
    "%",
    "%41",
    "\u202e",
    "::",
    "x.y/",
    "12D3Koo ",
    "a=b&",
    "🐍",
    ".",
]


def test_of_a_megabyte_only_the_beginning_is_read():
    """Against a swarm of a thousand servers, whose names are long and alike."""
    servers = (server(n, n, n + 1, public_name="a" * 90 + str(n), show_public_name=True) for n in range(1000))
    directory = Directory.of(snapshot(model("m", 1000, tuple(servers))))
    for piece in HOSTILE:
        text = piece * (1_000_000 // len(piece))
        whole, beginning = directory.resolve(text), directory.resolve(text[:MAX_READ])
        assert whole.cut_off
        assert not beginning.cut_off
        assert (whole.form, whole.found) == (beginning.form, beginning.found)
    assert directory.resolve(" " * MAX_READ + ONE).found == ()


def test_near_ids_are_found_as_by_comparing_all():
    """Wherever one to three letters are wrong, missing or too many; and without a look at each server."""
    directory = Directory.of(snapshot(model("m", 4, tuple(server(number, 0, 4) for number in range(5)))))
    looked_at = set()

    class Peers(dict):
        def __iter__(self):
            looked_at.add("all")
            return super().__iter__()

    everyone, directory.peers = list(directory.peers), Peers(directory.peers)
    for place in range(len(ONE)):
        for wrong in ("", "2", ONE[place : place + 3][::-1], "zzzz"):
            for left_out in (0, 1, 3):
                mistyped = ONE[:place] + wrong + ONE[place + left_out :]
                alike = sorted((_differing(one, mistyped), one) for one in everyone)
                expected = [one for letters, one in alike if letters <= 3]
                assert [match.key for match in directory._near_peers(mistyped)] == expected, mistyped
    assert not looked_at
