"""The log in Redis: the reader and the writer of one server's logs, positions and leases."""
