"""HTML pages of the monitor: pure functions from a snapshot to text, without I/O.

The app builds `Pages` once; every page of the swarm is rendered from a `View`.
"""

from api.pages.render import Pages
from api.pages.view import CheckView, View

__all__ = ["CheckView", "Pages", "View"]
