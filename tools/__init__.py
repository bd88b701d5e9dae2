"""Programs that a user runs: checks, conversion, demonstrations; benchmark/ is for speed, golden/ is the reference."""
