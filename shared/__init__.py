"""This package holds what two or more services use: snapshots, checks, Redis, libp2p, settings, logs."""
