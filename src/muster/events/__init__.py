"""Events: what the hub itself says of twins, identities and connections, beside the telemetry of devices."""
