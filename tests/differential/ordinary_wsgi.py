"""The gateway with a hook around its views, so that no append passes them by."""

from app import create_app

app = create_app()
app.before_request(lambda: None)
