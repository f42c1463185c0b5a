"""This package has servers compute one short step of inference each, in rounds, and compares their results."""
