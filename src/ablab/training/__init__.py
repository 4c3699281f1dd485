"""Training: optimisers, schedule, EMA, checkpoints and the loop that joins them."""
