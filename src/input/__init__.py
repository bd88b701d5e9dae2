"""From the bytes of an image file to the input of the network, and the random numbers that this needs."""
