"""This package is the RQ worker that probes peers. Each process has its own nodes and runs many checks at once."""
