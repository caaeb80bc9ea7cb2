"""The logs of runs: appending, reading and following them. Knows nothing of Flask."""
