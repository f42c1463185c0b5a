"""The typed Python client that docs/api.md makes of /openapi.json: made and used as it says there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.past import client_of, crawl_five

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text().split("## A typed Python client")[1]


@pytest.mark.slow
async def test_the_recipe_of_the_docs_makes_a_client_that_reads_the_state(redis, redis_url, tmp_path):
    """The commands, but for the installation, and the program give each model's state; the types are the client's."""
    await crawl_five(redis)
    shell, program = (re.search(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)[1] for language in ("bash", "python"))
    installation, *commands = shell.splitlines()
    assert installation == "pip install openapi-python-client"
    async with client_of(redis_url) as http:
        here = str(http.base_url).rstrip("/")
        (tmp_path / "program.py").write_text(program.replace("http://127.0.0.1:8000", here))
        script = "\n".join([*commands, f"{sys.executable} {tmp_path}/program.py"]).replace(
            "http://127.0.0.1:8000", here
        )
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": "."}
        told = await asyncio.to_thread(
            subprocess.run, ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
        state = (await http.get("/api/v1/state")).json()
    expected = {model["dht_prefix"]: model["state"] for model in state["model_reports"]}
    assert told.stdout.splitlines()[-1] == str(expected)
    assert (tmp_path / "petals-health-monitor-client/petals_health_monitor_client/py.typed").exists()
