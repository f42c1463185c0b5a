"""This module makes the notices that the crawler's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.notify.digest import Choice, parse_quiet_hours
from crawler.notify.incident_notices import IncidentNotices
from crawler.notify.notice_queue import NoticeQueue
from crawler.notify.operator_notices import OperatorNotices
from crawler.notify.webhook import Webhook, parse_target
from shared.store.connection import connect_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.metrics import CrawlerMetrics
    from crawler.settings import CrawlerSettings
    from shared.store.clock import RedisClock


def notices(
    settings: CrawlerSettings, redis: Redis, leadership: Leadership, metrics: CrawlerMetrics, clock: RedisClock
) -> Iterator[tuple[str, IncidentNotices | OperatorNotices]]:
    """Yield the senders of the notices that are set, each with the name of its loop."""

    def count(outcome: str) -> None:
        metrics.notices.labels(outcome).inc()

    if (receiver := webhook(settings, clock.now)) is not None:
        queue = NoticeQueue(connect_sync(settings.redis_url), receiver.deliver, count)
        official_only = settings.incident_webhook_models == "official"
        yield "incident_notices", IncidentNotices(redis, leadership, queue, clock, official_only=official_only)
    quiet_hours = settings.notify_quiet_hours
    for url in settings.notify_urls:
        told = OperatorNotices(
            redis,
            leadership,
            clock,
            url=url.get_secret_value(),
            choice=Choice(
                settings.notify_models, settings.notify_servers, settings.notify_contributors, settings.notify_severity
            ),
            official=frozenset(model.dht_prefix for model in settings.official_models),
            digest_seconds=settings.notify_digest,
            quiet_hours=None if quiet_hours is None else parse_quiet_hours(quiet_hours),
            monitor_url=settings.notify_monitor_url,
            on_ended=count,
        )
        yield "operator_notices", told


def webhook(settings: CrawlerSettings, now: Callable[[], float]) -> Webhook | None:
    """Return the receiver of incidents, if one is set."""
    secret = settings.incident_webhook_secret
    if settings.incident_webhook_url is None:
        return None
    return Webhook(
        parse_target(settings.incident_webhook_url),
        secret=None if secret is None else secret.get_secret_value().encode(),
        allow_private=settings.incident_webhook_allow_private,
        now=now,
    )
