"""Training: data, losses, the one loop, evaluation."""
