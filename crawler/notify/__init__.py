"""This package sends incidents to the operator's webhook, and changes to the services that operators read."""
