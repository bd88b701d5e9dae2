"""Tests of src/convert, with weight files that other libraries wrote."""
