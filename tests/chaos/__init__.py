"""The soak and chaos suite: producers and followers go on while everything breaks."""
