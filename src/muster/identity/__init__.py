"""Who may talk to the hub: identities, credentials, policies, and the verdict on each attempt."""
