"""Everything that relies on gunicorn's internals; no other package does."""
