"""This module holds what processes of the monitor say by how they end."""

BAD_SETTINGS = 2
"""The settings cannot work: whoever started the process need not try again."""
