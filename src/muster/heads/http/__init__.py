"""The HTTPS surface: one file per resource."""
