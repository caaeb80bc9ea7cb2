"""The same bytes go to two gateways, and only one of them has plain appends: no difference."""
