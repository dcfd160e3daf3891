"""One trial: cross-validation as a generator of events, checkpoints, scores."""
