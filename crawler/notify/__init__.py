"""This package sends incidents to the operator's webhook, and changes to the services that operators read.

Two mechanisms deliver them, since they promise different things. A program gets each incident as a document of its own,
in order: notices are queued, retried and given up one by one (`notice_queue`). A person gets one message about all that
changed since the last one: nothing is queued, and a position in the stream of changes tells what is still to be sent
(`operator_notices`).
"""
