"""Debian's Prometheus on the configuration that ships, for processes on this machine; for proofs and tests.

Changed in a copy are addresses, and time where a proof should be short: `faster=15` divides every `for:` and every
range in the rules by 15, as if all clocks ran so much faster. The rules' own files are never touched.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from deploy.embedded_redis import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SHIPPED = Path(__file__).resolve().parents[2] / "deploy/prometheus"
SECONDS = {"s": 1, "m": 60, "h": 3600}
START_TIMEOUT = 60.0


def write_configuration(
    folder: Path,
    targets: Mapping[str, Sequence[int]],
    *,
    alertmanager: int | None = None,
    duration: Callable[[int], float] = float,
) -> None:
    """Write prometheus.yml and rules.yml: `targets` has the ports of each job, `duration` maps seconds to seconds."""
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job.pop("scrape_interval", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets[job["job_name"]]]}]
    managers = [] if alertmanager is None else [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
    config["alerting"] = {"alertmanagers": managers}

    def changed(found: re.Match[str]) -> str:
        seconds = duration(int(found["number"]) * SECONDS[found["unit"]])
        return f"{found['before']}{max(1, round(seconds))}s{found['after']}"

    rules = (SHIPPED / "rules.yml").read_text()
    for pattern in (
        r"(?m)(?P<before>^\s+for: )(?P<number>\d+)(?P<unit>[smh])(?P<after>$)",
        r"(?P<before>\[)(?P<number>\d+)(?P<unit>[smh])(?P<after>\])",
    ):
        rules = re.sub(pattern, changed, rules)
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


def command(folder: Path, port: int) -> list[str]:
    return [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip


class LocalPrometheus:
    """A Prometheus that runs from `with` to its end."""

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[int]], *, faster: float = 1.0) -> None:
        write_configuration(folder, targets, duration=lambda seconds: seconds / faster)
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(command(self._folder, self._port))
        end = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.query("up")
            except OSError:
                if time.monotonic() > end:
                    self.__exit__()
                    raise TimeoutError("Prometheus did not start") from None
                time.sleep(0.2)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return an instant vector: `{"metric": labels, "value": [time, text]}` for each series."""
        result: list[dict[str, Any]] = self._get("query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return result

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/{what}", timeout=5) as answer:
            return json.load(answer)["data"]
