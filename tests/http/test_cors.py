"""Cross-origin requests of web pages: off by default, and what a page of an allowed origin gets."""

import pytest

from gateway.http.cors import CorsPolicy, origins_of
from tests.gateways import AUTH_HEADERS, StartGateway
from tests.http.raw_http import exchange, request_bytes

APP, OTHER = "https://app.example.com", "https://other.example.com"
PREFLIGHT = (
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
)


async def _preflight(port: int, path: str, origin: str):
    return await exchange(port, request_bytes(path, b"", method="OPTIONS", headers=(("Origin", origin), *PREFLIGHT)))


async def test_without_the_setting_no_page_is_allowed(start_gateway: StartGateway):
    async with start_gateway() as gateway:
        preflight = await _preflight(gateway.app.port, "/v1/chat/completions", APP)
        assert (preflight.status, preflight.headers["allow"]) == (204, "POST, OPTIONS")
        async with gateway.post({"Origin": APP}) as answer:
            assert answer.status == 200
            names = {*preflight.headers, *(name.lower() for name in answer.headers)}
    assert not any(name.startswith("access-control-") or name == "vary" for name in names)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models", "/v1/images/generations"])
async def test_a_preflight_of_an_allowed_origin_needs_no_key(start_gateway: StartGateway, path):
    async with start_gateway(cors_origins=f"{APP}, http://localhost:3000") as gateway:
        answer = await _preflight(gateway.app.port, path, APP)
        other = await _preflight(gateway.app.port, path, OTHER)
        assert not gateway.small_provider.request_bodies
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT[1][1]
    assert ("POST" in answer.headers["access-control-allow-methods"]) is (path != "/v1/models")
    assert answer.headers["access-control-max-age"] == "7200"
    assert answer.headers["vary"] == other.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "headers, status", [({}, 200), ({"Authorization": "Bearer wrong"}, 401)], ids=["an answer", "an error"]
)
async def test_a_page_may_read_answers_and_errors(start_gateway: StartGateway, stream, headers, status):
    async with (
        start_gateway(cors_origins=APP) as gateway,
        gateway.post({"Origin": APP, **headers}, stream=stream) as answer,
    ):
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Expose-Headers"] == "*"
        assert answer.headers["Server"] == "penstock"
        assert (await answer.read()).startswith(b"data" if stream and status == 200 else b"{")


async def test_an_unknown_path_tells_the_page_its_error(start_gateway: StartGateway):
    async with start_gateway(cors_origins="*") as gateway:
        answer = await exchange(gateway.app.port, request_bytes("/v1/v1/messages", headers=(("Origin", APP),)))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (404, "*")


async def test_the_operators_endpoints_stay_closed_to_pages(start_gateway: StartGateway):
    async with start_gateway(cors_origins="*") as gateway:
        for path in ("/metrics", "/export", "/admin/budgets", "/readyz"):
            async with gateway.get(path, headers={"Origin": APP, **AUTH_HEADERS}) as answer:
                assert answer.status == 200
                assert "Access-Control-Allow-Origin" not in answer.headers


def test_any_header_is_allowed_where_the_names_are_invalid():
    headers = {"Origin": APP, "Access-Control-Request-Headers": "a,,b\u00e9"}
    granted = CorsPolicy(frozenset({"*"})).preflight_headers(headers, ("POST",))
    assert granted["Access-Control-Allow-Headers"] == "Authorization, *"


def test_a_local_gateway_may_be_called_by_a_public_page():
    headers = {"Origin": APP, "Access-Control-Request-Private-Network": "true"}
    granted = CorsPolicy(frozenset({APP})).preflight_headers(headers, ("POST",))
    assert granted["Access-Control-Allow-Private-Network"] == "true"


@pytest.mark.parametrize(
    "text, origins",
    [("", set()), ("*", {"*"}), (f" {APP} ,http://localhost:3000,", {APP, "http://localhost:3000"}),
     ("chrome-extension://abc", {"chrome-extension://abc"})],
)  # fmt: skip
def test_origins_are_a_list_with_commas(text, origins):
    assert origins_of(text) == origins


@pytest.mark.parametrize("text", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"])
def test_what_no_browser_sends_as_an_origin_is_refused(text):
    with pytest.raises(ValueError, match="must be origins like"):
        origins_of(text)
