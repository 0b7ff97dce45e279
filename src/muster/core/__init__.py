"""What every room may lean on: time and randomness, the errors catalogue, limits, the bus."""
