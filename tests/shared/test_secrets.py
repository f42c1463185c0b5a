"""Nothing secret is ever shown, wherever in a setting it stands: a canary is looked for in all that is printed."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crawler.notify import webhook
from crawler.settings import CrawlerSettings
from shared import logs
from shared.settings import begin, command_line, masked_url

CANARY = "hunter2"
PLACES = [
    ("REDIS_URL", "redis://:hunter2@h/0"),
    ("REDIS_URL", "redis://hunter2@h/0"),
    ("REDIS_URL", "redis://user:hunter2@h/0"),
    ("REDIS_URL", "redis://hunter2:x@h/0"),
    ("REDIS_URL", "redis://h/0?password=hunter2"),
    ("REDIS_URL", "redis://h/0?password=a@hunter2"),
    ("REDIS_URL", "redis://h/0?hunter2"),
    ("REDIS_URL", "redis://h/0?foo=hunter2"),
    ("REDIS_URL", "redis://:pa#hunter2@h/0"),
    ("REDIS_URL", "redis://:hunter2#pa@h/0"),
    ("REDIS_URL", "redis://:pa/hunter2@h/0"),
    ("REDIS_URL", "redis://:hunter2/pa@h/0"),
    ("REDIS_URL", "redis://:pa?hunter2@h/0"),
    ("REDIS_URL", "redis://:pa@hunter2@h/0"),
    ("REDIS_URL", "redis://:hunter2"),
    ("REDIS_URL", "redis://h:hunter2/0"),
    ("REDIS_URL", "redis://h/0#hunter2"),
    ("REDIS_URL", "redis://[::1:hunter2@h/0"),
    ("REDIS_URL", "rediss://:hunter2@h/0?ssl_ca_certs=/none"),
    ("REDIS_URL", "sentinel://:hunter2@h:1,h:2/petals/x"),
    ("REDIS_URL", "sentinel://:pa#hunter2@h:1/petals"),
    ("REDIS_URL", "sentinel://h:1/petals?password=hunter2"),
    ("REDIS_URL", "unix:///run/redis.sock?password=hunter2"),
    ("REDIS_URL", "unix://:hunter2@/run/redis.sock"),
    ("REDIS_URL", "hunter2"),
    ("REDIS_URL", "http://:hunter2@h/0"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@collector:4318"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/v1?key=hunter2"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:hunter2"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/hunter2/otlp"),
    ("INCIDENT_WEBHOOK_URL", "https://hooks.example/services/hunter2"),
    ("INCIDENT_WEBHOOK_URL", "https://hooks.example/?token=hunter2"),
    ("INCIDENT_WEBHOOK_URL", "https://user:hunter2@hooks.example/"),
    ("INCIDENT_WEBHOOK_URL", "https://hooks.example/a hunter2"),
    ("INCIDENT_WEBHOOK_URL", "https://hooks.example/#hunter2"),
    ("INCIDENT_WEBHOOK_URL", "https://hooks.example:hunter2/"),
    ("INCIDENT_WEBHOOK_URL", "hooks.example/hunter2"),
    ("INCIDENT_WEBHOOK_SECRET", "hunter2"),
]


@pytest.mark.parametrize(("variable", "value"), PLACES)
def test_the_configuration_and_its_errors_show_no_secret(variable, value, monkeypatch, capsys):
    """`--print-config`, "Bad settings", the settings' own text, pydantic's error."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["crawler", "--print-config"])
    with pytest.raises(SystemExit):
        begin(command_line("crawler", None, CrawlerSettings), CrawlerSettings)
    told = "".join(capsys.readouterr())
    assert variable in told
    assert CANARY not in told
    with suppress(ValidationError):
        assert CANARY not in repr(CrawlerSettings()) + str(CrawlerSettings())
        return
    with pytest.raises(ValidationError) as error:
        CrawlerSettings()
    assert CANARY not in str(error.value) + repr(error.value)


def test_what_is_no_secret_stays_readable():
    """Where the service goes is what the operator looks for."""
    assert masked_url("redis://:p@h:1/3", path=True) == "redis://***@h:1/3"
    assert masked_url("sentinel://:p@a:1,[::1]:2/petals/0", path=True) == "sentinel://***@a:1,[::1]:2/petals/0"
    assert masked_url("redis://h/0?db=1", path=True) == "redis://h/0?***"
    assert masked_url("https://hooks.example/T/B", path=False) == "https://hooks.example/***"


@given(st.text("@:/?#[]%&=.,ab", max_size=12), st.text("@:/?#[]%&=.,ab", max_size=12))
def test_a_password_is_masked_whatever_stands_around_it(before, after):
    """Also where the URL is not well formed; as long as it stands where a password may."""
    for url in (f"redis://:{before}{CANARY}{after}@h/0", f"redis://h/0?password={before}{CANARY}{after}"):
        assert CANARY not in masked_url(url, path=True)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_logged_traceback_shows_no_local_variable(log_format, monkeypatch):
    """Settings and URLs are local variables of what fails."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    told = io.StringIO()
    try:
        with redirect_stderr(told), redirect_stdout(told):
            logs.configure(CrawlerSettings(log_format=log_format), "crawler")
            url = f"redis://:{CANARY}@h/0"
            try:
                int(url[:5])
            except ValueError:
                structlog.get_logger("tests").exception("failed")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    assert "ValueError" in told.getvalue()
    assert CANARY not in told.getvalue()


@pytest.mark.real_parts
def test_a_failed_delivery_shows_no_path(monkeypatch):
    """It is logged, and kept in RQ for the operator."""
    target = webhook.parse_target("http://127.0.0.1:9/services/hunter2?token=hunter2")
    with pytest.raises(webhook.DeliveryError) as error:
        webhook.Webhook(target, b"hunter2", allow_private=True).deliver(b"{}")
    assert CANARY not in str(error.value)
