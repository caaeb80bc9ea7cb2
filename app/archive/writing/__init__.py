"""The archiver: which logs are due, how one is copied, and what is held until it is."""
