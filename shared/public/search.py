"""`GET /api/v1/search`: what a pasted or typed text names."""

from __future__ import annotations

from typing import Literal

from shared.public.document import Document


class SearchHit(Document):
    """One thing that the text may mean."""

    kind: Literal["server", "bootstrap", "peer", "model", "contributor", "incident"]
    """`peer` is a well-formed peer id that the snapshot does not know."""
    key: str
    """Peer id, DHT prefix, public name or incident's id."""
    text: str
    """The name to show."""
    more: str
    """What tells it from others, in words."""
    href: str
    """The path of its page."""


class SearchDocument(Document):
    """What was found, and what may have been meant where nothing was."""

    query: str
    sentence: str
    """What is known of the text where it names nothing of this swarm; empty where it names something."""
    found: tuple[SearchHit, ...]
    more: int
    """Matches left out of `found`."""
    suggestions: tuple[SearchHit, ...]
