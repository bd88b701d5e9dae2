"""Everything below the programs: configuration, data, network, training, inference, conversion of weights."""
