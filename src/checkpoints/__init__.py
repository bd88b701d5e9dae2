"""Checkpoint files, and the folder in which a training run keeps them."""
