"""This package tells the operator's webhook of incidents."""
