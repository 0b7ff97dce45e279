"""What devices and the hub say to each other: telemetry and its partitions."""
