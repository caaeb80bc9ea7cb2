"""The pages of the gateway in a real Chromium."""
