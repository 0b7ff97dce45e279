"""Who may do what at the service side, by role: data actions, roles (service.md 1.5)."""
