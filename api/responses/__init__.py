"""Responses that are made once and sent many times, and the snapshots and histories that they are made of."""
