"""Scaled out: NATS carries the bus between nodes, and its JetStream keeps the telemetry."""
