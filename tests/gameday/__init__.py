"""A game day: what an operator sees, and how soon, when a running system is broken on purpose."""
