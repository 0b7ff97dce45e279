"""Thin: sockets to wire events to domain calls."""
