"""What drives a trainer: the loop, steps of descent, checkpoints, several processes, signals."""
