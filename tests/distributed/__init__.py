"""Tests of src/distributed, most of them with real ranks."""
