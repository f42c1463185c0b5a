"""HTML pages of the monitor: pure functions from a snapshot to text. No I/O, nothing done at import.

`Pages` is built once by the app; `View` is what every page of the swarm is drawn from.
"""

from api.pages.render import Pages
from api.pages.view import CheckView, View

__all__ = ["CheckView", "Pages", "View"]
