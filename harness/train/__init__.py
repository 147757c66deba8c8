"""The one training loop, its checkpoints, its processes and what makes a step faster."""
