"""NFNet: the network, its data and its training."""
