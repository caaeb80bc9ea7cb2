"""Streaming ingest: the lines of long requests, appended as they arrive."""
