"""This module holds exit codes of the monitor's processes."""

BAD_SETTINGS = 2
"""Invalid settings: a supervisor need not restart the process."""
