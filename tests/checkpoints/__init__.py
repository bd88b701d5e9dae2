"""Tests of src/checkpoints: checkpoint files, the folder of a run, and a checkpoint of an older version."""
