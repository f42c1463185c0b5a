"""What the api does with HTTP itself: addresses, ids, headers, errors, limits. It knows nothing of the swarm."""
