"""The live side: readers fill feeds, and subscribers get what the feeds hold."""
