"""What a page shall show is waited for as long as a busy machine may take: Playwright's own five seconds are none."""

from playwright import async_api, sync_api

for api in (async_api, sync_api):
    api.expect.set_options(timeout=20_000)
