"""Signed approval tokens that resume one stopped session. Pure.

A token is `payload.signature`, both base64url without padding. The payload is a JSON array of key, session, stop id and
expiry (seconds since the epoch); the signature is HMAC-SHA256 of its bytes. A token works once: using it ends the stop
that it names.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64

import orjson

LINK_LIFETIME_SECONDS = 24 * 3600.0
_TOKEN_CHARS_MAX = 2048


def create_token(secret: bytes, key: str, session: str, stop: str, *, until: float) -> str:
    """Create the token for one stop; `until` is in seconds since the epoch."""
    payload = orjson.dumps([key, session, stop, int(until)])
    return f"{_encode(payload)}.{_encode(_signature(secret, payload))}"


def verify_token(secret: bytes, token: str, *, now: float) -> tuple[str, str, str] | None:
    """(key, session, stop) of a genuine, unexpired token, else None."""
    payload_text, _, signature_text = token[:_TOKEN_CHARS_MAX].partition(".")
    try:
        payload, signature = _decode(payload_text), _decode(signature_text)
    except (NotBase64, ValueError):
        return None
    if not hmac.compare_digest(_signature(secret, payload), signature):
        return None
    key, session, stop, until = orjson.loads(payload)
    return (key, session, stop) if now < until else None


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, b"penstock approval\0" + payload, "sha256")


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
