"""This module finds what a pasted text names: peers, models and contributors; without any, the most similar names.

The text may be a peer id in any spelling, a short id as tables write it ("...zQVHoD"), a multiaddr, the address of a
page, an IP address, a host name, the name of a contributor or a model, or log lines with any of these in them. It is
hostile: `shared.paste` limits how much is read, in time linear in that and in the size of the swarm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice
from operator import ne
from os.path import commonprefix
from typing import TYPE_CHECKING

from shared.address_text import canonical_ip, endpoint
from shared.paste import MAX_WORDS, Paste, read_paste
from shared.peer_id import named_peer
from shared.words import clean, cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shared.snapshot import Snapshot

MAX_FOUND = 20
MAX_SUGGESTIONS = 5
MAX_COMPARED = 2_000
"""Names that are compared by their pairs of letters, some µs for each."""
LIKE = 0.5
"""Least share of common pairs of letters (`_likeness`) at which a name is suggested for another."""
MIN_FRAGMENT = 4
"""Least number of characters of a part of a peer id that is searched for: shorter ones match by chance."""
MAX_NAME = 60
"""Characters of a match's text."""


class Kind(StrEnum):
    """What was found."""

    SERVER = "server"
    """A peer that announces blocks."""
    BOOTSTRAP = "bootstrap"
    """A peer through which nodes join, and that announces no blocks."""
    PEER = "peer"
    """A well-formed peer id that the snapshot does not know."""
    MODEL = "model"
    CONTRIBUTOR = "contributor"


class Form(StrEnum):
    """What the paste looks like."""

    EMPTY = "empty"
    PEER_ID = "peer_id"
    """A peer id, or a piece of one; it need not be well formed."""
    ADDRESS = "address"
    """A multiaddr, an IP address or a host name."""
    NAME = "name"
    """Any other text."""


@dataclass(frozen=True, slots=True)
class Match:
    """One thing that the text may mean. `key` is its peer id, DHT prefix or public name, unchanged."""

    kind: Kind
    key: str
    text: str
    """What to show: printable, cut."""
    addresses: tuple[str, ...] = ()
    """Multiaddrs that were pasted with this peer, without its id, as they were given: to be dialled as given."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a text names (`found`), and similar names (`suggestions`), which are given only where nothing is known."""

    pasted: str
    """The paste, printable, cut: to be edited."""
    form: Form
    found: tuple[Match, ...] = ()
    more: int = 0
    """Matches left out of `found`."""
    suggestions: tuple[Match, ...] = ()
    cut_off: bool = False
    """Whether the paste was longer than what is read."""

    @property
    def only(self) -> Match | None:
        """The match, where there is exactly one."""
        return self.found[0] if len(self.found) == 1 else None

    @property
    def sentence(self) -> str:
        """Say what is known of the text where it names nothing of this swarm; empty where it names something."""
        if self.found and any(match.kind is not Kind.PEER for match in self.found):
            return ""
        if self.found:
            return "The swarm does not know this peer id: it was mistyped, or no server has announced itself under it."
        return {
            Form.EMPTY: "Paste a peer id, an address, or the name of a model or a contributor.",
            Form.PEER_ID: "This looks like a peer id, but a part of it is missing or mistyped.",
            Form.ADDRESS: "No server of this swarm announces this address.",
            Form.NAME: "No server, model or contributor of this swarm has this name.",
        }[self.form]


_ALPHABET = "1-9A-HJ-NP-Za-km-z"
_SHORT_ID = re.compile(
    rf"(?<!\w)([{_ALPHABET}]{{0,52}})(?:\.{{2,3}}|…)([{_ALPHABET}]{{{MIN_FRAGMENT},52}})(?!\w)", re.ASCII
)
_FRAGMENT = re.compile(rf"[{_ALPHABET}]{{{MIN_FRAGMENT},60}}")
_ID_START = re.compile(r"(?<!\w)(?:Qm|12D3Koo|16Uiu2)\w{6,}", re.ASCII)
_WORD_BREAK = re.compile(r"[\s,;\"'`<>()\[\]{}|=&]+")
_BLOCK_NUMBER = re.compile(r"\.\d{1,5}$", re.ASCII)
_HOST_AND_PORT = re.compile(r"(.+):\d{1,5}", re.ASCII)
_HOST_BREAK = re.compile(r"[\s,;\"'`<>()\[\]{}|=&/]+")
_HUB_PAGE = re.compile(r"[^?#]*huggingface\.co/([^/?#]+(?:/[^/?#]+)?)")
_MODEL_PAGE = re.compile(r"[^?#]*/models/([^?#]*)")
_MAX_WRONG = 3
"""Letters of a peer id that may be wrong, in one place, for it to be suggested."""
_START = 16
"""Letters at the start of a peer id, of 46 and more, in which few are alike: the first eight often are."""


@dataclass(slots=True)
class Directory:
    """An index of the names in one snapshot: build it once with `of`, then call `resolve` for each text."""

    peers: dict[str, Kind] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    """DHT prefixes by each name of theirs, in lower case."""
    titles: dict[str, str] = field(default_factory=dict)
    """The name to show by DHT prefix."""
    contributors: dict[str, list[str]] = field(default_factory=dict)
    """Public names by themselves in lower case."""
    shown_names: dict[str, None] = field(default_factory=dict)
    """Public names that pages show: those that may be suggested."""
    hosts: dict[str, dict[str, None]] = field(default_factory=dict)
    """Peer ids by the host of an address, and by `HOST PORT`."""
    _by_end: dict[str, list[str]] = field(default_factory=dict)
    """Peer ids by their last `MIN_FRAGMENT` characters in lower case."""
    _by_start: dict[str, list[str]] = field(default_factory=dict)
    """Peer ids by their first `_START` characters."""

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Directory:
        directory = cls()
        if snapshot is None:
            return directory
        for model in snapshot.models:
            directory._add_model(model.dht_prefix, model.name, model.short_name, model.repository)
            for server in model.servers:
                directory.peers[server.peer_id] = Kind.SERVER
                if server.public_name:
                    directory._add_contributor(server.public_name, shown=server.show_public_name)
                directory._add_addresses(server.peer_id, server.multiaddrs)
        for peer in snapshot.bootstrap_peers:
            directory.peers.setdefault(peer.peer_id, Kind.BOOTSTRAP)
            directory._add_addresses(peer.peer_id, peer.addresses)
        for peer_id in directory.peers:
            directory._by_end.setdefault(peer_id[-MIN_FRAGMENT:].lower(), []).append(peer_id)
            directory._by_start.setdefault(peer_id[:_START], []).append(peer_id)
        return directory

    def resolve(self, text: str) -> Resolution:
        """Return what `text` names. Never raises, whatever the text is."""
        paste = read_paste(text)
        if not paste.text:
            return _resolution(paste, Form.EMPTY, [])
        if paste.peers:
            matches = [self._peer(peer_id, tuple(addresses)) for peer_id, addresses in paste.peers.items()]
            known = any(match.kind is not Kind.PEER for match in matches)
            return _resolution(paste, Form.PEER_ID, matches, [] if known else self._near_peers(matches[0].key))
        form, matches = self._named_by(paste)
        return _resolution(paste, form, matches, [] if matches else self._near(paste.text, form))

    def _named_by(self, paste: Paste) -> tuple[Form, list[Match]]:
        """Find what a text without a whole peer id names: the surest first."""
        rest = paste.rest
        form = Form.PEER_ID if _SHORT_ID.fullmatch(rest) or _ID_START.search(rest) else Form.NAME
        if matches := self._by_short_id(rest):
            return Form.PEER_ID, matches
        if places := [*(endpoint(address).host_and_port for address in paste.addresses), *self._hosts(rest)]:
            form = Form.ADDRESS
            if matches := self._at(places):
                return form, matches
        if matches := self._named(rest):
            return form, matches
        if _FRAGMENT.fullmatch(rest) and (matches := self._ending_with(rest)):
            return Form.PEER_ID, matches
        return form, []

    def _add_model(self, prefix: str, name: str, short_name: str, repository: str | None) -> None:
        self.titles[prefix] = name
        names = {prefix, name, short_name}
        if repository and (page := _HUB_PAGE.match(repository)):
            names.add(page[1])
        for known in names:
            if known:
                self.models.setdefault(known.lower(), []).append(prefix)

    def _add_contributor(self, name: str, *, shown: bool) -> None:
        known = self.contributors.setdefault(clean(name).strip().lower(), [])
        if name not in known:
            known.append(name)
        if shown:
            self.shown_names.setdefault(name)

    def _add_addresses(self, peer_id: str, addresses: Iterable[str]) -> None:
        for address in addresses:
            at = endpoint(address)
            host, port = at.host_and_port
            if host and not at.relayed:
                self.hosts.setdefault(host, {}).setdefault(peer_id)
                self.hosts.setdefault(f"{host} {port}", {}).setdefault(peer_id)

    def _peer(self, peer_id: str, addresses: tuple[str, ...] = ()) -> Match:
        return Match(self.peers.get(peer_id, Kind.PEER), peer_id, named_peer(peer_id), addresses)

    def _model(self, prefix: str) -> Match:
        return Match(Kind.MODEL, prefix, cut(self.titles[prefix], MAX_NAME) or "(nameless)")

    def _contributor(self, name: str) -> Match:
        return Match(Kind.CONTRIBUTOR, name, cut(name, MAX_NAME) or "(nameless)")

    def _by_short_id(self, text: str) -> list[Match]:
        """Return the peers that short ids in the text name: `...zQVHoD`, `…zQVHoD`, `Qm…zQVHoD`."""
        found: dict[str, None] = {}
        for match in islice(_SHORT_ID.finditer(text), MAX_WORDS):
            start, end = match.groups()
            ending = self._by_end.get(end[-MIN_FRAGMENT:].lower(), ())
            exact = [peer_id for peer_id in ending if peer_id.endswith(end) and peer_id.startswith(start)]
            found |= dict.fromkeys(exact)
        return [self._peer(peer_id) for peer_id in found]

    def _ending_with(self, fragment: str) -> list[Match]:
        """Return the peers whose id ends with the fragment: in the same case, if there are any, else in any case."""
        ending = [
            peer_id
            for peer_id in self._by_end.get(fragment[-MIN_FRAGMENT:].lower(), ())
            if peer_id.lower().endswith(fragment.lower())
        ]
        exact = [peer_id for peer_id in ending if peer_id.endswith(fragment)]
        return [self._peer(peer_id) for peer_id in exact or ending]

    def _at(self, places: Iterable[tuple[str, str]]) -> list[Match]:
        found: dict[str, None] = {}
        for host, port in places:
            found |= self.hosts.get(f"{host} {port}" if port else host, {})
        return [self._peer(peer_id) for peer_id in found]

    def _named(self, text: str) -> list[Match]:
        """Return models and contributors named by the whole text; without any, models that one of its words names."""
        whole = [self._model(prefix) for prefix in self._models_of(text)]
        whole += [self._contributor(name) for name in self.contributors.get(text.lower(), ())]
        if whole:
            return whole
        words = (word.strip(".:!?") for word in islice(_WORD_BREAK.split(text), MAX_WORDS))
        return [self._model(prefix) for prefix in dict.fromkeys(p for word in words for p in self._models_of(word))]

    def _models_of(self, word: str) -> list[str]:
        """Return the DHT prefixes for a name, a block's key (`PREFIX.12`), or a page of the monitor or the Hub."""
        name = word.lower()
        if page := _MODEL_PAGE.match(name) or _HUB_PAGE.match(name):
            name = page[1].rstrip("/")
        return self.models.get(name) or self.models.get(_BLOCK_NUMBER.sub("", name)) or []

    def _near(self, text: str, form: Form) -> list[Match]:
        if form is Form.ADDRESS:
            # Suggest servers at other ports of the same machine.
            return self._at((host, "") for host, _ in self._hosts(text))
        if form is Form.PEER_ID:
            if short := _SHORT_ID.search(text):
                return self._nearly_ending_with(short[2])
            longest = max(re.findall(r"\w+", text, re.ASCII), key=len)  # there is one: that made it a peer id
            return self._near_peers(longest) or self._containing(longest)
        return self._near_names(text) or self._containing(text)

    def _nearly_ending_with(self, end: str) -> list[Match]:
        """Return the peers whose last letters equal those of `end` in any case, or differ in one place."""
        wanted = end[-6:].lower()  # what a short id shows
        tails = ((peer_id, peer_id[-len(wanted) :].lower()) for peer_id in self.peers)
        return [self._peer(peer_id) for peer_id, tail in tails if sum(map(ne, wanted, tail)) <= 1]

    def _near_peers(self, wanted: str) -> list[Match]:
        """Return peers whose id differs from `wanted` in one place: a letter mistyped, omitted, swapped or doubled."""
        # What is wrong in one place leaves the start or the end as it is: comparing all takes 23 ms for 10,000 servers.
        alike = {*self._by_start.get(wanted[:_START], ()), *self._by_end.get(wanted[-MIN_FRAGMENT:].lower(), ())}
        near = ((_differing(peer_id, wanted), peer_id) for peer_id in alike)
        return [self._peer(peer_id) for wrong, peer_id in sorted(near) if wrong <= _MAX_WRONG]

    def _containing(self, fragment: str) -> list[Match]:
        """Return the peers with the fragment in their id, if there are at most `MAX_SUGGESTIONS`."""
        needle = fragment.strip(" .…").lower()
        if not MIN_FRAGMENT <= len(needle) <= MAX_NAME:
            return []
        found = [self._peer(peer_id) for peer_id in self.peers if needle in peer_id.lower()]
        return found if len(found) <= MAX_SUGGESTIONS else []

    def _near_names(self, text: str) -> list[Match]:
        """Return models and contributors whose name contains the text; without any, those with a similar name."""
        needle = text.lower()
        models = ((known, self._model, prefixes[0]) for known, prefixes in self.models.items())
        people = ((clean(name).strip().lower(), self._contributor, name) for name in self.shown_names)
        names = list(islice(chain(models, people), MAX_COMPARED))
        near = [(make, key) for known, make, key in names if needle in known]
        if not near:
            wanted = _pairs(needle)
            rated = [(_likeness(wanted, _pairs(known)), make, key) for known, make, key in names]
            rated.sort(key=lambda item: -item[0])
            near = [(make, key) for likeness, make, key in rated if likeness >= LIKE]
        return list(dict.fromkeys(make(key) for make, key in near))

    def _hosts(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield `(host, "")` for each word that is an IP address or an announced host name, with or without a port."""
        for word in islice(_HOST_BREAK.split(text), MAX_WORDS):
            with_port = _HOST_AND_PORT.fullmatch(word)
            for host in (word, with_port[1]) if with_port else (word,):
                if canonical := canonical_ip(host):
                    yield canonical, ""
                elif "." in host and host.lower() in self.hosts:
                    yield host.lower(), ""


def _resolution(paste: Paste, form: Form, matches: list[Match], near: Sequence[Match] = ()) -> Resolution:
    found = tuple(matches[:MAX_FOUND])
    suggestions = tuple(near[:MAX_SUGGESTIONS])
    return Resolution(paste.kept, form, found, len(matches) - len(found), suggestions, paste.cut_off)


def _pairs(name: str) -> frozenset[str]:
    name = f" {name[:MAX_NAME]} "  # so that first and last letters count
    return frozenset(name[place : place + 2] for place in range(len(name) - 1))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Sørensen and Dice's measure: 1 where all pairs of letters are common to both, 0 where none is."""
    return 2 * len(one & other) / (len(one) + len(other))


def _differing(one: str, other: str) -> int:
    """Count the letters between the common start and the common end of two words."""
    start = _common_start(one, other)
    end = _common_start(one[start:][::-1], other[start:][::-1])
    return max(len(one), len(other)) - start - end


def _common_start(one: str, other: str) -> int:
    return len(commonprefix((one, other)))  # noqa: RUF071 - words, not paths
