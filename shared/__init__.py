"""What two or more services use: the snapshot, the reachability question, Redis keys, settings, logs."""
