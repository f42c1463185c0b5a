"""Prometheus metrics: views of a snapshot, and what this process counts of itself."""
