"""Reachability checks as the api runs them: admitted to the queue, awaited, and answered in time."""
