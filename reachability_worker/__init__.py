"""RQ workers that look at peers: each holds its own nodes and runs a thousand checks at once."""
