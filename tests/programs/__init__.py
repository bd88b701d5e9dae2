"""Tests of whole programs and shell scripts, as a user runs them."""
