"""This module sends an example notice to every receiver that the settings name: `python -m crawler --test-notice`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from crawler.notify.digest import message
from crawler.notify.notice_queue import Notice
from crawler.notify.services import NotSentError, masked, send
from crawler.notify.webhook import DeliveryError
from shared.changes import of_incident
from shared.incidents import Incident, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.notify.webhook import Webhook

EXAMPLE = "This is a test of the notices: nothing happened."


def try_all(urls: tuple[str, ...], webhook: Webhook | None, monitor_url: str | None) -> Iterator[tuple[bool, str]]:
    """Yield `(accepted, name)` per receiver, with the error behind the name of one that failed; never a secret."""
    now = time.time()
    incident = Incident(
        id="test", dht_prefix="test", name="Test", official=True, start=now - 720, end=now, num_blocks=1,
        covered_blocks=0, outcome=Outcome.RECOVERED,
    )  # fmt: skip
    if webhook is not None:
        notice = Notice("test:closed", "incident.closed", now, incident)
        try:
            webhook.deliver(msgspec.json.encode(notice))
        except DeliveryError as error:
            yield False, f"webhook at {webhook.target.host}: {error}"
        else:
            yield True, f"webhook at {webhook.target.host}"
    example = message([of_incident(incident, EXAMPLE, now)], monitor_url)
    for url in urls:
        try:
            send(url, example)
        except NotSentError as error:
            yield False, f"{masked(url)}: {error}"
        else:
            yield True, masked(url)
