"""The composition root: everything is built here, from settings."""
