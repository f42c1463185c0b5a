"""This module sends messages through apprise (mail, chat and push services), which is imported only when needed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.notify.digest import Message

_NEXT_URL = re.compile(r"[\s,]+(?=[A-Za-z0-9]+://)")


class NotSentError(Exception):
    """The message was not sent. The text does not quote the address, which may hold a secret."""


def split_urls(text: str) -> list[str]:
    """Return the addresses of a list with commas or blanks; a comma within an address stays."""
    return [url for url in _NEXT_URL.split(text.strip()) if url]


def check_url(url: str) -> None:
    """Raise `ValueError` where apprise is not installed, or does not know the address; nothing of it is quoted."""
    if _opened(url) is None:
        raise ValueError("apprise does not know such an address (https://appriseit.com/services/)")


def send(url: str, message: Message) -> None:
    """Send a message to one service. Raises `NotSentError`. Blocks: call it in a thread."""
    try:
        service = _opened(url)
        sent = service is not None and service.notify(body=message.body, title=message.title, notify_type=message.tone)
    except Exception as error:  # noqa: BLE001 - what a plugin does not catch; its words may quote the address
        raise NotSentError(f"apprise failed with {type(error).__name__}") from None
    if not sent:
        raise NotSentError("the service did not take it")


def masked(url: str) -> str:
    """Return what may be shown of an address: its scheme."""
    return f"{url.partition('://')[0][:20]}://***"


def _opened(url: str) -> Any:
    try:
        import apprise  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(
            "this needs apprise: an image built with NOTIFY=1, or deploy/requirements/notify.txt"
        ) from None
    return apprise.Apprise.instantiate(url, suppress_exceptions=True)
