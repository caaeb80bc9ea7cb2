"""The streams of this worker: each sends history and then a feed to one client."""
