"""The bodies of requests, as gunicorn holds them: arrived, arriving, late, and left unread."""
