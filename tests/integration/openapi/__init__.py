"""The description of the API against real gateways: its examples, and schemathesis."""
