"""Training: the recipe as one compiled step, and the run around it."""
