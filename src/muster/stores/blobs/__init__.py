"""Storages of uploaded files: a kind per file."""
