"""What the workers of one machine share in a process of its own, the keeper: partitions, sessions, and their bus."""
