"""Tests of src/training against float64 references."""
