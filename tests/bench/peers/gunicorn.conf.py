"""gunicorn's settings for the plain Flask version."""

worker_class = "gevent"
workers = 1
worker_connections = 12_000
control_socket_disable = True
loglevel = "warning"
