"""This module is the Python API: it returns the swarm's state as a dict, from a script, without Redis.

import hivemind
from crawler.health import PUBLIC_INITIAL_PEERS, fetch_health_state

dht = hivemind.DHT(initial_peers=PUBLIC_INITIAL_PEERS, client_mode=True, start=True)
state = fetch_health_state(dht)
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.crawl import crawl_once
from crawler.observe.observation import SwarmUnavailableError
from crawler.settings import CrawlerSettings
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.petals import PUBLIC_INITIAL_PEERS
from shared.public.state import state_document

if TYPE_CHECKING:
    from hivemind import DHT

__all__ = ["PUBLIC_INITIAL_PEERS", "SwarmUnavailableError", "fetch_health_state"]


def fetch_health_state(dht: DHT, **settings: Any) -> dict[str, Any]:
    """Crawl the swarm that `dht` belongs to, and return what `GET /api/v1/state` would show.

    `dht` is a started `hivemind.DHT`. Only its initial peers are used: its own results go through a pipe that loses
    large ones. `settings` are those of `CrawlerSettings`, by field name
    (`models`, `dial_timeout`, …); the environment's apply too.

    Takes some seconds. Raises `TypeError` for a setting that does not exist, `pydantic.ValidationError` for a bad
    value, `SwarmUnavailableError` where no bootstrap peer answers.
    """
    if unknown := settings.keys() - CrawlerSettings.model_fields.keys():
        raise TypeError(f"fetch_health_state() knows no setting {', '.join(sorted(unknown))}")
    initial_peers = [str(address) for address in dht.initial_peers or dht.get_visible_maddrs()]
    options = CrawlerSettings(**{"initial_peers": initial_peers, **settings})

    async def fetch() -> dict[str, Any]:
        async with await DHTClientNode.open(options.dial_private_addresses) as node:
            document: dict[str, Any] = json.loads(msgspec.json.encode(state_document(await crawl_once(options, node))))
            return document

    # In a thread, so that it works where a loop runs already, as in a notebook.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, fetch()).result()
