"""A stateful property test: the real gateway, compared with a model of its HTTP contract."""
