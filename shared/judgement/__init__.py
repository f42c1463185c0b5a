"""Pure functions of a snapshot that crawler, api, pages and metrics share: no display text, no clock, no I/O.

`coverage`: which blocks have servers, and what these claim to pass. `path`: the chain that a client would take.
`swarm`: the state of the whole and of its bootstrap peers. `freshness`: how old a snapshot is, and so its tense.
`outages`: which models are broken now.
"""
