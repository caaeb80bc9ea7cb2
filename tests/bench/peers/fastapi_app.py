"""The usual asynchronous server: FastAPI and sse-starlette, one blocking XREAD a viewer."""

import json
import os

import redis.asyncio as redis
from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

app = FastAPI()
client = redis.Redis.from_url(os.environ["REDIS_URL"], max_connections=20_000, socket_timeout=None)


@app.post("/runs/{run_id}/events", status_code=201)
async def append(run_id: str, request: Request):
    event = await request.json()
    key = f"run:{run_id}:events"
    event_id = await client.xadd(key, {"data": json.dumps(event)}, maxlen=10_000)
    return {"id": event_id.decode()}


@app.get("/runs/{run_id}/events/stream")
async def stream(run_id: str, request: Request):
    async def generate():
        cursor = request.headers.get("Last-Event-ID", "0-0")
        while True:
            for _, entries in await client.xread({f"run:{run_id}:events": cursor}, 500, 15_000):
                for entry_id, fields in entries:
                    cursor = entry_id.decode()
                    yield ServerSentEvent(data=fields[b"data"].decode(), id=cursor)

    return EventSourceResponse(generate(), ping=15)
