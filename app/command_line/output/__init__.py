"""What the command line prints, and with which status it exits."""
