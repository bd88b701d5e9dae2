"""C++ kernels for a CPU and how they are compiled, called and put into a network."""
