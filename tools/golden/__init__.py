"""The reference of the network: what it is computed from, what an independent library computed, and how far we are."""
