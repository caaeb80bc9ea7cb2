"""The chaos suite: producers and followers go on while servers and connections fail."""
