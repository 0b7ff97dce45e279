"""What is done to many identities at once: import and export."""
