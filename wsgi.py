"""The WSGI application, for any server that wants one."""

from app import create_app

app = create_app()
