"""Programs that a user runs: checks, conversion, demonstrations, and benchmark/, which measures speed."""
