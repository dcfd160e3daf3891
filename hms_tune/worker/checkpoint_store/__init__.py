"""Where checkpoints lie so that any machine can go on with a trial."""
