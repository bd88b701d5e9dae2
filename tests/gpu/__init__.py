"""A stand-in for CUDA that computes nothing, and what it shows of the GPU path."""
