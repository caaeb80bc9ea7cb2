"""A proxy between a client and a gateway, which loses responses and cuts connections."""

import contextlib
import socket
import threading

from tests.raw_http import reset_when_closed


class Proxy:
    """Forwards connections to a gateway, and can lose responses and cut connections.

    It hangs up in place of the next `lost_responses` responses, and on a client or gateway that
    sends nothing for `timeout` seconds.
    """

    def __init__(self, port: int, timeout: float | None = None):
        self.lost_responses = 0
        self.port = port
        self._timeout = timeout
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._bytes_before_cut: int | None = None
        self._reset = False
        self._to_reset: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all open connections."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_response_after(self, count: int, *, reset: bool = False) -> None:
        """Forward so many bytes of the gateway, and then cut their connection, once.

        With `reset` the client gets a TCP reset in place of an orderly end.
        """
        self._reset = reset
        self._bytes_before_cut = count

    @property
    def has_cut_response(self) -> bool:
        """Whether that has happened."""
        return self._bytes_before_cut is None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(self._timeout)
                server = socket.create_connection(("127.0.0.1", self.port))
                self._open += [client, server]
                for ends in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pipe, args=ends, daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket, from_gateway: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if from_gateway and self.lost_responses:
                    self.lost_responses -= 1
                    break
                if from_gateway and self._cuts(data, target):
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD if end in self._to_reset else socket.SHUT_RDWR)
            end.close()

    def _cuts(self, data: bytes, client: socket.socket) -> bool:
        """Cut the response if these bytes of it are too many, and return whether they were."""
        if self._bytes_before_cut is None:
            return False
        count = self._bytes_before_cut
        if len(data) <= count:
            self._bytes_before_cut -= len(data)
            return False
        self._bytes_before_cut = None
        client.sendall(data[:count])
        if self._reset:
            reset_when_closed(client)
            self._to_reset.add(client)
        return True
