"""The commands of those who operate a gateway, beside `serve`."""
