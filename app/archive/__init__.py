"""The archive of runs: what it looks like, how it is written, read and restored; knows no Flask."""
