"""What a session sends and trusts: headers of the user, netrc, redirects, certificates."""

import ssl

import pytest
import trustme

from app.client import Client
from app.protocol import options
from app.streaming.errors import InvalidInput, Refused, StoreUnavailable
from tests.client.fake_gateway import FakeGateway, response, run_state
from tests.client.test_credentials import answer, only, sent
from tests.client.test_follower import OVER
from tests.client.test_foreign_responses import CALLS

READS = ["follow", "get_events", "get_events_after", "state", "runs"]


@pytest.fixture
def netrc(monkeypatch, tmp_path) -> None:
    """Give the user a netrc with a password for every host."""
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def path_for(call: str) -> str:
    """Return another path that `answer` answers in the way that the call expects."""
    return "/elsewhere/stream" if call == "follow" else "/elsewhere"


# Headers


@pytest.mark.parametrize("call", CALLS)
def test_headers_of_the_user_are_sent_with_every_request(call):
    headers = {"X-Tenant": "acme", "User-Agent": "mine/1", "X-Empty": ""}
    with FakeGateway([answer]) as gateway, Client(gateway.url, headers=headers) as client:
        CALLS[call](client)
    received = gateway.requests[0].headers
    assert [received["x-tenant"], received["user-agent"]] == ["acme", "mine/1"]
    assert received["x-empty"] == ""


def test_the_names_that_the_client_sets_are_those_that_it_refuses():
    with FakeGateway([answer]) as gateway, Client(gateway.url, token="t1") as client:
        for call in CALLS.values():
            call(client)
    names = {name for request in gateway.requests for name in request.headers}
    assert names == {*options.OWN_HEADERS, "user-agent"}


@pytest.mark.parametrize("name", options.OWN_HEADERS)
@pytest.mark.parametrize("write", [str.lower, str.title])
def test_headers_that_the_client_sets_itself_are_refused(name, write):
    with pytest.raises(InvalidInput, match=write(name)) as refused:
        Client("http://127.0.0.1:1", headers={write(name): "secret"})
    assert refused.value.field == "headers"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nY", "X\n", "é", 5, None])
def test_a_header_without_a_right_name_is_refused(name):
    with pytest.raises(InvalidInput, match="headers"):
        Client("http://127.0.0.1:1", headers={name: "x"})


@pytest.mark.parametrize(
    "value", ["secret\r\nY: 1", "secret\n", " secret", "secret\0", "secret中", b"secret", 5, None]
)
def test_a_header_that_cannot_be_sent_is_refused_and_its_value_not_shown(value):
    with pytest.raises(InvalidInput, match="X-Key") as refused:
        Client("http://127.0.0.1:1", headers={"X-Key": value})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("call", ["add", "stream"])
def test_the_headers_of_a_client_are_those_at_its_making(call):
    headers = {"X-Tenant": "acme"}
    with FakeGateway([answer]) as gateway, Client(gateway.url, headers=headers) as client:
        headers["X-Tenant"] = "other"
        CALLS[call](client)
    assert gateway.requests[0].headers["x-tenant"] == "acme"


# A netrc


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("call", CALLS)
def test_a_netrc_does_not_replace_the_token(call):
    with FakeGateway([only("mine")]) as gateway, Client(gateway.url, token="mine") as client:
        CALLS[call](client)
    assert sent(gateway) == ["Bearer mine"]


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("call", READS)
def test_a_netrc_does_not_replace_the_token_after_a_redirect(call):
    script = [response(307, location=path_for(call)), only("mine")]
    with FakeGateway(script) as gateway, Client(gateway.url, token="mine") as client:
        CALLS[call](client)
    assert sent(gateway) == ["Bearer mine"] * 2


@pytest.mark.only_client(reason="httpx reads no netrc")
@pytest.mark.usefixtures("netrc")
def test_without_a_token_a_netrc_is_used():
    with FakeGateway([answer]) as gateway, Client(gateway.url) as client:
        client.state(1)
    assert sent(gateway) == ["Basic YTpi"]


# Proxies and cookies


@pytest.mark.parametrize("call", CALLS)
def test_a_proxy_of_the_environment_is_used(monkeypatch, call):
    with FakeGateway([answer]) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        CALLS[call](Client("http://gateway.example/base"))
    [request] = proxy.requests
    assert request.headers["host"] == "gateway.example"
    assert request.path.startswith("/base/")


def test_cookies_are_not_kept():
    with FakeGateway([response(200, run_state(), set_cookie="a=b; Path=/")]) as gateway:
        client = Client(gateway.url)
        for _ in range(2):
            client.state(1)
    assert gateway.of_requests(lambda request: request.headers.get("cookie")) == [None, None]


# Redirects


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["host", "port"])
def test_a_redirect_elsewhere_gets_neither_the_token_nor_the_headers(status, call, host):
    headers = {"X-Key": "secret", "Cookie": "a=secret"}
    with FakeGateway([answer]) as other:
        target = other.url.replace("127.0.0.1", host) + path_for(call)
        with FakeGateway([response(status, location=target)]) as gateway:
            CALLS[call](Client(gateway.url, token="mine", headers=headers))
    assert sent(gateway) == ["Bearer mine"]
    assert sent(other) == [None]
    assert "secret" not in str(other.requests[0].headers)


@pytest.mark.parametrize("call", READS)
def test_without_a_token_a_redirect_elsewhere_does_not_get_the_headers_either(call):
    with FakeGateway([answer]) as other:
        moved = response(307, location=other.url + path_for(call))
        with FakeGateway([moved]) as gateway:
            CALLS[call](Client(gateway.url, headers={"X-Key": "secret"}))
    assert "secret" not in str(other.requests[0].headers)


@pytest.mark.parametrize("call", READS)
def test_a_redirect_on_the_same_server_keeps_the_token_and_the_headers(call):
    script = [response(308, location=path_for(call)), answer]
    with FakeGateway(script) as gateway:
        CALLS[call](Client(gateway.url, token="mine", headers={"X-Key": "1"}))
    assert sent(gateway) == ["Bearer mine"] * 2
    assert gateway.requests[1].headers["x-key"] == "1"


def test_what_a_redirect_elsewhere_has_taken_away_does_not_come_back():
    with FakeGateway([OVER]) as gateway, FakeGateway([OVER]) as other:
        gateway.script.insert(0, response(307, location=f"{other.url}/x"))
        other.script.insert(0, response(307, location=f"{gateway.url}/x"))
        list(Client(gateway.url, token="mine", headers={"X-Key": "secret"}).follow(1))
    assert sent(gateway) == ["Bearer mine", None]
    assert "secret" not in str(gateway.requests[1].headers)


@pytest.mark.parametrize("call", [name for name in CALLS if name not in READS])
def test_a_post_is_not_redirected(call):
    with FakeGateway([answer]) as other:
        moved = response(307, location=f"{other.url}/x")
        with FakeGateway([moved]) as gateway, pytest.raises(Refused, match="307"):
            CALLS[call](Client(gateway.url, token="mine"))
    assert other.requests == []


# Certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def bundle(authority, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("bundle") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("other") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("call", CALLS)
def test_a_bundle_is_trusted_even_if_the_environment_names_another(
    monkeypatch, context, bundle, other_bundle, call
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other_bundle)
    with FakeGateway([answer], tls=context) as gateway:
        CALLS[call](Client(gateway.url, verify=bundle))
    assert len(gateway.requests) == 1


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_verified_if_the_user_says_so(monkeypatch, context, other_bundle, call):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other_bundle)
    with FakeGateway([answer], tls=context) as gateway:
        CALLS[call](Client(gateway.url, verify=False))
    assert len(gateway.requests) == 1


def test_without_verify_the_environment_names_the_bundle(monkeypatch, context, bundle):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with FakeGateway([answer], tls=context) as gateway:
        Client(gateway.url).state(1)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("call", ["add", "get_events", "state", "stream"])
def test_a_server_that_is_not_trusted_gets_no_token(
    monkeypatch, context, bundle, other_bundle, call
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with FakeGateway([answer], tls=context) as gateway:
        client = Client(gateway.url, token="mine", verify=other_bundle, retry_seconds=0)
        with pytest.raises(StoreUnavailable):
            CALLS[call](client)
    assert gateway.requests == []


@pytest.mark.parametrize("verify", ["", "/no/such/file", 5, None, b"x"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:1"])
def test_what_can_verify_nothing_is_refused(verify, url):
    with pytest.raises(InvalidInput) as refused:
        Client(url, verify=verify)
    assert refused.value.field == "verify"
