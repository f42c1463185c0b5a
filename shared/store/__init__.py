"""This package holds everything that reads or writes Redis. Start with `keys`, which lists every key."""
