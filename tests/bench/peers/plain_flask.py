"""The usual Flask server: a generator with one blocking XREAD for each viewer."""

import json
import os

import redis
from flask import Flask, Response, request

app = Flask(__name__)
client = redis.Redis.from_url(os.environ["REDIS_URL"], max_connections=20_000, socket_timeout=None)


@app.post("/runs/<run_id>/events")
def append(run_id):
    event = request.get_json()
    event_id = client.xadd(f"run:{run_id}:events", {"data": json.dumps(event)}, maxlen=10_000)
    return {"id": event_id.decode()}, 201


@app.get("/runs/<run_id>/events/stream")
def stream(run_id):
    def generate():
        cursor = request_cursor
        yield ": open\n\n"
        while True:
            for _, entries in client.xread({f"run:{run_id}:events": cursor}, 500, 15_000):
                for entry_id, fields in entries:
                    cursor = entry_id.decode()
                    yield f"id: {cursor}\ndata: {fields[b'data'].decode()}\n\n"

    request_cursor = request.headers.get("Last-Event-ID", "0-0")
    return Response(generate(), mimetype="text/event-stream")
