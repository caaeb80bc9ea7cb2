"""The log in Redis: connections, scripts, the reader and the writer of one server's logs."""
