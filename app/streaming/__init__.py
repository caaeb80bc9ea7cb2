"""The log of runs and the following of it, knowing nothing of Flask."""
