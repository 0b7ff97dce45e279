"""Tools for tests, ours and users': the virtual clock."""
