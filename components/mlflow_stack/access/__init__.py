"""Access to the servers: user accounts, passwords and the authenticating proxy."""
