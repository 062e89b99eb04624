"""Training: `fit`, `train_step` and `evaluate`, and what accompanies them."""
