"""The clients of models' frameworks, from npm and PyPI and unmodified, resume answers."""
