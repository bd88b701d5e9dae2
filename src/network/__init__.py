"""What nasnet_a_mobile.py is built from and what is done to a built network: layers, merging, weights, folding."""
