"""Evaluation of a trained model: official lm-eval tasks and the loss on held-out answers, with one outcome per item."""
