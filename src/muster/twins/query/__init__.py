"""The device query language (service.md 5.1): lexer, parser, what a query may name, and the service that answers."""
