"""The embedded default: SQLite in WAL mode, through apsw."""
