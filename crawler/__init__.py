"""Observes the swarm, judges what it saw, and publishes a snapshot."""
