"""What `--watch` draws: the frame, the screen that it stands on, and the loop that renews it."""
