"""Implementations of the contracts on PostgreSQL, for deployments of several nodes."""
