"""Everything that relies on gunicorn's insides, and nothing else does."""
