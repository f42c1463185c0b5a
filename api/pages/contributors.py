"""This module makes the cards of contributors, and warns of names that look like others: anyone can claim any name."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.public.contributors import ContributorEntry, Served

MAX_LISTED = 200
WINDOWS = (("day", "Today"), ("week", "7 days"), ("month", "30 days"), ("all", "All time"))
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")
"""Alphabets with letters that look alike."""


@dataclass(frozen=True, slots=True)
class ContributorCard:
    """One contributor. `href` is None where its name makes an address that browsers would tidy away."""

    entry: ContributorEntry
    name: text.Shown
    href: str | None
    now: str
    doubt: str | None
    hours: tuple[tuple[str, str, str], ...]
    """Window, server-hours, block-hours."""


def make_cards(entries: Sequence[ContributorEntry]) -> list[ContributorCard]:
    """Return the first cards, in the order of the ranking. A name that looks like one before it says so."""
    seen: dict[str, str] = {}
    return [_card(entry, seen.setdefault(skeleton(entry.name), entry.name)) for entry in entries[:MAX_LISTED]]


def make_card(entries: Sequence[ContributorEntry], name: str) -> ContributorCard | None:
    """Return the card of one name of the ranking; None where it is not there."""
    entry = next((entry for entry in entries if entry.name == name), None)
    if entry is None:
        return None
    plain = skeleton(name)
    return _card(entry, next(each.name for each in entries if skeleton(each.name) == plain))


def _card(entry: ContributorEntry, alike: str) -> ContributorCard:
    """Return a card; `alike` is the first name of the ranking that looks like this one, or this one."""
    now = f"{words.count(entry.servers, 'server')}, {words.count(entry.blocks, 'block')}"
    return ContributorCard(
        entry,
        text.shown_name(entry.name, 40),
        href(entry.name),
        now if entry.servers else "none",
        doubt(entry.name, alike if alike != entry.name else None),
        tuple((title, *_hours(entry.served[window])) for window, title in WINDOWS),
    )


def href(name: str) -> str | None:
    """Return the address of a contributor's page; None for a name of which browsers make another address."""
    return None if name in (".", "..") else text.contributor_href(name)


def doubt(name: str, alike: str | None) -> str | None:
    """Return why a name may be meant to be taken for another; None where nothing says so."""
    if alike is not None:
        return "looks like another name above"
    if len(_alphabets(name)) > 1:
        return "mixes alphabets"
    return None


def skeleton(name: str) -> str:
    """Return the same text for names that differ only in case, width, accents or blanks."""
    plain = unicodedata.normalize("NFKD", words.clean(name)).casefold()
    return "".join(char for char in plain if not unicodedata.combining(char) and not char.isspace())


def _alphabets(name: str) -> set[str]:
    scripts = {unicodedata.name(char, "").partition(" ")[0] for char in name if char.isalpha()}
    return scripts.intersection(_SCRIPTS)


def _hours(served: Served) -> tuple[str, str]:
    return words.number(served.server_hours), words.number(served.block_hours)
