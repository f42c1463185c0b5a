"""This package holds verdicts in words, the commands that fix a problem, and where another server helps most."""
