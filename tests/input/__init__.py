"""Tests of src/input: decoding, crops, random numbers, and the input of the network."""
