"""Tests of nasnet_a_mobile.py and src/network against reference values."""
