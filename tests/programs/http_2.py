"""A connection of HTTP/2 that many requests share, as in a browser.

httpx reads such a connection for one request at a time: the others wait until that one gets
something.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlencode, urlsplit

import h2.config
import h2.connection
import h2.events


class Connection(asyncio.Protocol):
    """A connection to the host of a URL; `get` may be called any number of times at once."""

    def __init__(self, host: str):
        configuration = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(configuration)
        self._host = host
        self._received: dict[int, asyncio.Queue] = {}
        self._transport: asyncio.Transport | None = None
        self.is_open = True

    @classmethod
    async def to(cls, url: str, context: ssl.SSLContext) -> "Connection":
        """Open a connection."""
        parts = urlsplit(url)
        context.set_alpn_protocols(["h2"])
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(parts.netloc), parts.hostname, parts.port, ssl=context
        )
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        return connection

    async def get(self, path: str, query: dict, headers: dict[str, str]) -> AsyncIterator:
        """Yield the status, the headers in a dict, and then the pieces of the body.

        Raises ConnectionError if the stream, or the connection, is reset.
        """
        stream = self._h2.get_next_available_stream_id()
        queue = self._received[stream] = asyncio.Queue()
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        head = [(":method", "GET"), (":scheme", "https"), (":authority", self._host)]
        head += [(":path", target), *((name.lower(), value) for name, value in headers.items())]
        self._h2.send_headers(stream, head, end_stream=True)
        self._flush()
        try:
            while (received := await queue.get()) is not None:
                if isinstance(received, Exception):
                    raise received
                yield received
        finally:
            del self._received[stream]

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            self._take(event)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(ConnectionError(f"the connection is lost: {error}"))

    def _take(self, event: h2.events.Event) -> None:
        queue = self._received.get(getattr(event, "stream_id", 0))
        if isinstance(event, h2.events.ConnectionTerminated):
            self._end(ConnectionError("the proxy has ended the connection"))
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if queue:
                queue.put_nowait(event.data)
        elif queue and isinstance(event, h2.events.ResponseReceived):
            headers = dict(event.headers)
            queue.put_nowait((int(headers[":status"]), headers))
        elif queue and isinstance(event, h2.events.StreamEnded):
            queue.put_nowait(None)
        elif queue and isinstance(event, h2.events.StreamReset):
            queue.put_nowait(ConnectionError(f"the stream is reset: {event.error_code}"))

    def _end(self, error: ConnectionError) -> None:
        self.is_open = False
        for queue in self._received.values():
            queue.put_nowait(error)

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())
