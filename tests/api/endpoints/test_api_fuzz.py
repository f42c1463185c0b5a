"""Schemathesis asks the real api whatever its description allows, and more, and holds the answers against it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.api.past import client_of, crawl
from tests.fakes import snapshot

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
FUZZED = r"^/(api/v1/(state|models|servers|history|incidents)|badge|incidents|openapi|livez|readyz|models|servers)"


async def test_no_question_is_answered_otherwise_than_described(redis, redis_url, tmp_path):
    """No server error, no undescribed status, media type or field, whatever the names and parameters."""
    await crawl(redis, snapshot())
    async with client_of(redis_url) as http:
        # A process of its own: its plugin for pytest would cost every run of any test its start.
        asking = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"), "run", str(http.base_url.join("/openapi.json")),
            "--include-path-regex", FUZZED, "--checks", CHECKS, "--max-examples", "8", "--phases",
            "examples,coverage,fuzzing", "--generation-deterministic",
            "--suppress-health-check", "all", "--no-color", "--warnings", "off", "--continue-on-failure",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        report, _ = await asking.communicate()
    assert asking.returncode == 0, report.decode()
    assert "20 selected" in report.decode()
