"""`make bench`: Tailrace and its peers, measured with the same workloads in one run."""
