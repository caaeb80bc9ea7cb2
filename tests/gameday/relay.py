"""`python -m tests.gameday.relay PORT TO_PORT`: passes on TCP connections.

While this process is stopped, both sides are in two networks that do not reach each other.
"""

import socket
import sys
import threading


def main() -> None:
    port, to_port = map(int, sys.argv[1:])
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client = listener.accept()[0]
            try:
                server = socket.create_connection(("127.0.0.1", to_port))
            except OSError:
                client.close()
                continue
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on bytes one way until either side ends."""
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass
    for each in (source, target):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


if __name__ == "__main__":
    main()
