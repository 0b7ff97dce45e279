"""Implementations of the contracts that the domain rooms declare."""
