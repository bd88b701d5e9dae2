"""Reads weight files of other frameworks and gives their tensors the names and layouts of this network."""
