"""What this worker reads of the logs, and hands to all who follow them."""
