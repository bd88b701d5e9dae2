"""Tests of src/inference: evaluation, report and single images."""
