"""This module makes one crawl without Redis: it observes the swarm and judges what was observed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.judge import judge
from crawler.observe.observer import observe

if TYPE_CHECKING:
    from crawler.settings import CrawlerSettings
    from shared.p2p.dht_node import DHTClientNode
    from shared.snapshot import Snapshot


async def crawl_once(settings: CrawlerSettings, dht_node: DHTClientNode) -> Snapshot:
    """Return the snapshot of one crawl. Raises `SwarmUnavailableError`, `NodeError`."""
    return judge(await observe(settings, dht_node), settings.crawl_period, settings.geo_database)
