"""Redis Cluster and Valkey Cluster: the logs are spread over several servers."""
