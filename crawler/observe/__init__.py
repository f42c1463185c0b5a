"""This package observes the swarm: which models and servers are announced, and which servers answer."""
