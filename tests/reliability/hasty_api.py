"""The api, which gives a request four seconds instead of twenty: `python -m tests.reliability.hasty_api`."""

import runpy

from api.http import connection_limits

REQUEST_WITHIN = 4.0

if __name__ == "__main__":
    connection_limits.REQUEST_WITHIN = REQUEST_WITHIN
    runpy.run_module("api", run_name="__main__")
