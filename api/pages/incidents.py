"""This module chooses what pages say of incidents: those of one model, and the page of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from api.pages import text
from shared import words
from shared.incidents import Incident, Outcome, summary
from shared.judgement.outages import Outage, outages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.pages.view import View
    from shared.judgement.outages import OutageState
    from shared.store.history import ModelHistory

MAX_ON_PAGE = 200
"""Incidents that the page of incidents lists, of each kind."""


@dataclass(frozen=True, slots=True)
class Event:
    """An incident as it is shown."""

    incident: Incident
    name: str
    tone: str
    state: str
    duration: str
    until: str
    """What follows the duration: how far it reaches, where it has not ended."""
    blocks: str
    summary: str


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """What the history knows of a model that is broken without an incident."""

    at: float | None
    """When the first crawl saw it that is still known, Unix seconds."""
    ever_healthy: bool

    @classmethod
    def of(cls, hours: ModelHistory, minutes: ModelHistory) -> FirstSeen:
        return cls(hours.first_crawl(minutes), ever_healthy=any(slot.healthy for slot in hours.slots))


def make_event(incident: Incident, now: float, last_seen: float | None = None) -> Event:
    """Return an incident as it is shown at `now`.

    `last_seen` (Unix seconds) is given where the last crawl is too long ago for the present tense.
    """
    ended = incident.end is not None
    open_until = now if last_seen is None else max(last_seen, incident.start)
    lasted = (open_until if incident.end is None else incident.end) - incident.start
    withdrawn = incident.outcome is Outcome.WITHDRAWN
    return Event(
        incident=incident,
        name=text.cut(incident.name, 60) or text.name(incident.dht_prefix, 60),
        tone="idle" if withdrawn else "good" if ended else "bad",
        state="withdrawn" if withdrawn else "recovered" if ended else "ongoing" if last_seen is None else "was ongoing",
        duration=words.about(lasted),
        until="" if ended else "" if last_seen is None else " until the swarm was last seen",
        blocks=f"At the lowest, {incident.covered_blocks} of {words.count(incident.num_blocks, 'block')} had a server",
        summary=summary(incident),
    )


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A model that is broken without an incident: a fact, in words."""

    name: str
    href: str
    official: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Incidents:
    """What the page of incidents shows, and its verdict, which is the overview's."""

    title: str
    ongoing: tuple[Event, ...]
    others: tuple[BrokenModel, ...]
    ended: tuple[Event, ...]
    left_out: int
    """Ended ones that are not listed."""


def make_incidents(view: View, incidents: Sequence[Incident], pasts: Mapping[str, FirstSeen]) -> Incidents:
    """Return what is broken and what was. `pasts` are of models without an incident, by DHT prefix."""
    found = outages(view.snapshot, incidents)
    ended = [incident for incident in incidents if incident.end is not None]
    return Incidents(
        title=_title(view, found),
        ongoing=tuple(_open_event(each.state, each.incident, view) for each in found if each.incident is not None),
        others=tuple(_without_incident(each, pasts, view) for each in found if each.incident is None)[:MAX_ON_PAGE],
        ended=tuple(make_event(incident, view.now) for incident in ended[:MAX_ON_PAGE]),
        left_out=max(0, len(ended) - MAX_ON_PAGE),
    )


def _open_event(state: OutageState, incident: Incident, view: View) -> Event:
    event = make_event(incident, view.now, view.last_seen)
    if state == "recovering" and not view.stale:
        event = replace(event, tone="warn", state="recovering (the latest crawl found it healthy)")
    return event


def _title(view: View, found: Sequence[Outage]) -> str:
    broken = sum(outage.is_broken for outage in found)
    if view.snapshot is None:
        return "What is broken now is not known: no snapshot yet"
    amount = "No model" if not broken else "One model" if broken == 1 else f"{broken:,} models"
    if view.last_seen is None:
        return f"{amount} {'is' if broken <= 1 else 'are'} broken"
    ago = words.ago(view.last_seen, view.now)
    return f"{amount} {'was' if broken <= 1 else 'were'} broken when the swarm was last seen, {ago}"


def _without_incident(outage: Outage, pasts: Mapping[str, FirstSeen], view: View) -> BrokenModel:
    past = pasts.get(outage.dht_prefix)
    if past is None or past.at is None:
        sentence = "broken in the latest crawl."
    elif past.ever_healthy:
        sentence = "broken in the latest crawl; an incident begins if the next one finds it so too."
    else:
        sentence = f"broken since it was first seen, {words.ago(past.at, view.now)}: no crawl has found it healthy."
    if view.stale:
        sentence = "broken when the swarm was last seen."
    name = text.cut(outage.name, 60) or text.name(outage.dht_prefix, 60)
    return BrokenModel(name, text.model_href(outage.dht_prefix), outage.official, sentence)
