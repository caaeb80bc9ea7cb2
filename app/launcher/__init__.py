"""Starts gunicorn and, if no Redis is given, a Redis of its own, and stops them together."""
