"""Forward proxies: which calls go through one, and calls through a real one."""

import base64

import pytest

from gateway.app import App
from gateway.config.settings import Settings
from gateway.http.feed_client import FeedClient
from gateway.http.proxies import InvalidProxy, Proxies, read_proxies
from gateway.http.upstream import HttpUpstream
from gateway.providers.upstream_call import UpstreamCall
from gateway.values.errors import Unreachable
from tests.http.raw_http import exchange, raw_server, request_bytes
from tests.snapshots import snapshot

FAR = "http://llm.example.invalid/v1"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "environment, url, proxy",
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.example/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/v1", "http://p:1"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "https://a.example", "http://low:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://a.example", "http://p:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "https://p:1"}, "https://a.example", "https://p:1"),
        ({"HTTPS_PROXY": "p:3128"}, "https://a.example", "http://p:3128"),
        ({"HTTPS_PROXY": ""}, "https://a.example", None),
        ({}, "https://a.example", None),
    ],
    ids=[
        "http", "not for https", "https", "lower case first", "all", "the scheme's own before all", "without scheme",
        "empty", "none",
    ],
)  # fmt: skip
def test_the_standard_variables_name_the_proxy(environment, url, proxy):
    assert read_proxies(None, environment).proxy_of(url) == proxy


@pytest.mark.parametrize(
    "no_proxy, url, is_direct",
    [
        ("a.example", "http://a.example/v1", True), ("a.example", "http://b.a.example/v1", True),
        (".a.example", "http://b.a.example/v1", True), ("*.a.example", "http://b.a.example/v1", True),
        ("a.example", "http://ba.example/v1", False), ("A.Example.", "http://a.EXAMPLE./v1", True),
        ("x, a.example", "http://a.example/v1", True), ("x a.example", "http://a.example/v1", True),
        ("a.example:8000", "http://a.example:8000/v1", True), ("a.example:8000", "http://a.example/v1", False),
        ("a.example:80", "http://a.example/v1", True), ("10.0.0.0/8", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000/v1", False), ("10.0.0.0/8", "http://a.example/v1", False),
        ("10.1.2.3", "http://10.1.2.3:8000/v1", True), ("1.2.3", "http://10.1.2.3:8000/v1", False),
        ("fd00::/8", "http://[fd00::1]:8000/v1", True), ("[fd00::1]:8000", "http://[fd00::1]:8000/v1", True),
        ("fd00::1", "http://[fd00:0::1]/v1", True), ("*", "http://a.example/v1", True), ("not/a/net", "http://a.b/v1", False),
        ("", "http://127.0.0.1:8000/v1", True), ("", "http://localhost:8000/v1", True), ("", "http://x.localhost/v1", True),
        ("", "http://[::1]:8000/v1", True), ("", "http://127.9.9.9/v1", True), ("", "http://a.example/v1", False),
    ],
)  # fmt: skip
def test_exceptions_and_the_own_machine_are_called_directly(no_proxy, url, is_direct):
    """As curl and Go's net/http read NO_PROXY (November 2026): names with subdomains, addresses, networks, ports."""
    for name in ("NO_PROXY", "no_proxy"):
        proxies = read_proxies(None, {"HTTP_PROXY": "http://p:1", name: no_proxy})
        assert proxies.proxy_of(url) == (None if is_direct else "http://p:1")


def test_the_setting_counts_before_the_environment():
    environment = {"HTTP_PROXY": "http://p:1", "NO_PROXY": "b.example"}
    assert read_proxies("none", environment) == Proxies()
    own = read_proxies("http://own:1", environment)
    assert [own.proxy_of(url) for url in (FAR, "https://a.example", "http://b.example")] == ["http://own:1"] * 2 + [
        None
    ]


@pytest.mark.parametrize("value", ["socks5://u:secret@p:1080", "http://", "http://u:secret@p:port", "ftp://p"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_value(value):
    with pytest.raises(InvalidProxy, match="HTTP_PROXY must be the URL of an HTTP proxy") as raised:
        read_proxies(None, {"HTTP_PROXY": value}).proxy_of(FAR)
    assert "secret" not in str(raised.value)


def _call(url: str = FAR, dialect: str = "chat") -> UpstreamCall:
    deployment = snapshot(near=url).deployments["small"]
    return UpstreamCall(
        deployment=deployment, upstream_dialect=dialect, url=f"{url}/x", headers={"a": "b"}, body=(b"{}",)
    )


@pytest.mark.parametrize("dialect", ["chat", "passthrough"])
async def test_a_call_goes_through_the_proxy_with_its_login(dialect):
    async with raw_server(lambda request: HEAD) as (port, requests):
        upstream = HttpUpstream(read_proxies(None, {"HTTP_PROXY": f"http://us%40er:se%3Acret@127.0.0.1:{port}"}))
        for _ in range(2):
            response = await upstream.dial(_call(dialect=dialect))
            assert await response.read(10) == b"{}"
            response.close()
        await upstream.close()
    login = base64.b64encode(b"us@er:se:cret")
    for request in requests:
        assert request.startswith(f"POST {FAR}/x HTTP/1.1\r\n".encode())
        assert b"Proxy-Authorization: Basic " + login in request and b"Host: llm.example.invalid" in request
    assert len(requests) == 2


@pytest.mark.parametrize("url", [FAR, "https://llm.example.invalid/v1"], ids=["forwarded", "tunneled"])
async def test_a_proxy_that_wants_a_login_is_no_answer_of_the_provider(url):
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(lambda request: refusal) as (port, requests):
        upstream = HttpUpstream(read_proxies(f"http://127.0.0.1:{port}", {}))
        with pytest.raises(Unreachable, match="the proxy of 'small' refused it with status 407"):
            await upstream.dial(_call(url))
        await upstream.close()
    assert requests[0].startswith(b"POST http://llm" if url == FAR else b"CONNECT llm.example.invalid:443 ")
    assert url == FAR or b"provider-secret" not in requests[0]


@pytest.mark.parametrize(
    "proxy, message", [("http://127.0.0.1:9", "the proxy of 'small' is unreachable"), ("socks5://p:1", "SOCKS")]
)
async def test_a_proxy_that_cannot_be_reached_is_named(proxy, message):
    upstream = HttpUpstream(read_proxies(None, {"HTTP_PROXY": proxy}))
    with pytest.raises(Unreachable, match=message):
        await upstream.dial(_call())
    await upstream.close()


async def test_feeds_go_through_the_proxy():
    async with raw_server(lambda request: HEAD) as (port, requests):
        client = FeedClient(read_proxies(None, {"HTTP_PROXY": f"http://127.0.0.1:{port}"}))
        assert await client.get("http://feed.example.invalid/x", {}) == (200, b"{}")
        await client.close()
        assert requests[0].startswith(b"GET http://feed.example.invalid/x ")
    client = FeedClient(read_proxies(None, {"HTTP_PROXY": "socks4://p:1"}))
    with pytest.raises(OSError, match="HTTP_PROXY must be"):
        await client.get("http://feed.example.invalid/x", {})
    await client.close()


async def test_a_gateway_reads_the_variables_at_its_start(tmp_path, monkeypatch):
    answer = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant"'
    answer += (
        b',"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
    async with raw_server(lambda request: head + answer) as (port, requests):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("http_proxy", raising=False)
        app = App(Settings(data=tmp_path, port=0, drain_seconds=1.0), snapshot(near=FAR))
        await app.start()
        try:
            monkeypatch.delenv("HTTP_PROXY")
            assert (await exchange(app.port, request_bytes("/v1/chat/completions"))).status == 200
        finally:
            await app.stop()
    (request,) = requests
    assert request.startswith(f"POST {FAR}/chat/completions HTTP/1.1\r\n".encode())
    assert b"Authorization: Bearer provider-secret" in request
