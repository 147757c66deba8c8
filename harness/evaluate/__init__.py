"""A trained model looked at: official lm-eval tasks and the answer loss on held-out rows, one outcome per item."""
