"""All runs together: the index that lists them, what heals it, and the log of their changes."""
