"""Twins: the document of each identity and its merge, its rules, and the service that changes it."""
