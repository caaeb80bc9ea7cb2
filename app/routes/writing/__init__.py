"""Appending events: one by one, in batches, and over kept-alive connections together."""
