"""Measures speed and memory of this suite and of other frameworks: python tools/benchmark."""
