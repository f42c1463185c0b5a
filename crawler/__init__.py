"""This package observes the swarm, judges what was observed, and publishes snapshots."""
