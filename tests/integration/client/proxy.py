"""A proxy between a client and a gateway, which loses responses and cuts connections."""

import contextlib
import socket
import threading


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
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all open connections."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

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
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
