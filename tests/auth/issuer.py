"""An issuer of tokens for tests: keys, tokens that they sign, and a JWK Set over HTTP."""

import functools
import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
P256, OTHER_P256 = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

ALGORITHMS = {"RS256": RSA, "ES256": P256, "EdDSA": ED25519}
_WRITERS = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "ES384": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def pem(private_key: Any) -> str:
    public = private_key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(private_key: Any, algorithm: str, key_id: str | None = None, **more: Any) -> dict[str, Any]:
    public = _WRITERS[algorithm].to_jwk(private_key.public_key(), as_dict=True)
    return public | more | ({"kid": key_id} if key_id else {})


def sign(private_key: Any, algorithm: str, key_id: str | None = None, **claims: Any) -> str:
    payload = {
        "sub": "u1",
        "aud": "tailrace",
        "iat": int(time.time()),
        "exp": time.time() + 600,
        "tailrace": {"admin": ["*"]},
    } | claims
    headers = {"kid": key_id} if key_id else {}
    return jwt.encode(payload, private_key, algorithm, headers)


class Issuer:
    """Serves a JWK Set at `url`; `answer` may be replaced to misbehave."""

    def __init__(self, *keys: dict[str, Any], tls: ssl.SSLContext | None = None) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.connected_to: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.send_keys
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.answer(self)

            def do_CONNECT(self) -> None:
                """Note that it was taken for a proxy."""
                issuer.connected_to.append(self.path)
                send(self, 502, b"")

            def log_message(self, *arguments: object) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            # The handshake is made by the thread of the connection, which closes what fails.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/keys"

    def __enter__(self) -> Self:
        serve = functools.partial(self._server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send_keys(self, handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, json.dumps({"keys": self.keys}).encode())


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
