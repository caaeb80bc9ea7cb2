"""The live side: feeds that readers fill, and subscribers that get what they hold."""
