"""The HTTP face: one blueprint a module, knowing nothing of redis."""
