"""HTTP/1.1 byte by byte: requests for streams, strict chunks, and connections that are reset."""

import re
import socket
import struct


def stream_path(run_id: str, query: str = "") -> str:
    return f"/runs/{run_id}/events/stream?{query}"


def request_stream(
    port: int,
    path: str,
    version: str = "1.1",
    headers: dict[str, str] | None = None,
    receive_buffer: int | None = None,
) -> socket.socket:
    """Open a connection, request a stream, and return the connection before any answer.

    A small `receive_buffer`, in bytes, makes the server's send buffer small too.
    """
    connection = socket.socket()
    connection.settimeout(30)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # The kernel sizes the sender's buffer in segments.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", port))
    lines = [f"GET {path} HTTP/{version}", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def read_until(connection: socket.socket, text: bytes) -> bytes:
    """Read until the text has come, and return all that was read."""
    received = b""
    while text not in received:
        piece = connection.recv(65536)
        assert piece, f"ended before {text!r}: {received!r}"
        received += piece
    return received


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset, in place of an orderly end."""
    reset_when_closed(connection)
    connection.close()


def reset_when_closed(connection: socket.socket) -> None:
    """Have the kernel send a TCP reset once the connection is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class ChunkReader:
    """Reads a chunked body strictly (RFC 9112, section 7.1), in pieces of any size."""

    def __init__(self):
        self.ended = False
        self._buffer = b""

    def read(self, wire: bytes) -> bytes:
        """Take the next bytes of the connection, and return the body bytes that are complete."""
        self._buffer += wire
        body = b""
        while True:
            size, separator, rest = self._buffer.partition(b"\r\n")
            if not separator:
                assert re.fullmatch(rb"[0-9a-f]{0,8}\r?", size), f"not a chunk size: {size!r}"
                return body
            assert not self.ended, f"after the last chunk: {self._buffer!r}"
            assert re.fullmatch(rb"[0-9a-f]{1,8}", size), f"not a chunk size: {size!r}"
            length = int(size, 16)
            if len(rest) < length + 2:
                return body
            assert rest[length : length + 2] == b"\r\n", f"not a chunk's end: {rest[length:][:9]!r}"
            body += rest[:length]
            self._buffer = rest[length + 2 :]
            self.ended = length == 0
