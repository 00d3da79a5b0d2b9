"""Cross-origin resource sharing: which web pages may call the gateway from a browser. Pure.

Off unless PENSTOCK_CORS_ORIGINS names origins. Cookies are never involved, so no answer allows credentials.
"""

import re
from collections.abc import Mapping

ANY_ORIGIN = "*"
# An origin as browsers send it: no path, no white space (RFC 6454, section 7).
ORIGIN_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#,*]+")
# Seconds for which a browser remembers a preflight: Chromium's limit (fetch/cors_preflight, 2 hours).
_MAX_AGE_SECONDS = 7200
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_HEADER_NAMES_CHARS_MAX = 4096
_NO_HEADERS: Mapping[str, str] = {}


class CorsPolicy:
    """Headers that let pages of some origins read the answers.

    origins: as browsers send them, `*` for any; empty to allow none
    """

    def __init__(self, origins: frozenset[str] = frozenset()) -> None:
        self._origins = frozenset(origin.lower() for origin in origins)
        self.is_on = bool(origins)

    def answer_headers(self, origin: str | None) -> Mapping[str, str]:
        """Returns the headers of any answer to a request of this origin, None for no origin."""
        if ANY_ORIGIN in self._origins:
            return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
        if not self.is_on:
            return _NO_HEADERS
        if origin is None or origin.lower() not in self._origins:
            # A cache must not give this answer to a page of another origin.
            return {"Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}

    def preflight_headers(self, headers: Mapping[str, str], methods: tuple[str, ...]) -> Mapping[str, str]:
        """Returns the further headers of the answer to a preflight; `headers` have case-insensitive names."""
        if "Access-Control-Allow-Origin" not in self.answer_headers(headers.get("Origin")):
            return _NO_HEADERS
        requested = headers.get("Access-Control-Request-Headers", "")[:_HEADER_NAMES_CHARS_MAX]
        granted = {
            "Access-Control-Allow-Methods": ", ".join(methods),
            # `*` alone does not cover Authorization.
            "Access-Control-Allow-Headers": requested if _HEADER_NAMES.fullmatch(requested) else "Authorization, *",
            "Access-Control-Max-Age": str(_MAX_AGE_SECONDS),
        }
        if headers.get("Access-Control-Request-Private-Network") == "true":
            granted["Access-Control-Allow-Private-Network"] = "true"
        return granted


def origins_of(text: str) -> frozenset[str]:
    """Returns the origins of a comma-separated list. Raises ValueError."""
    origins = frozenset(part.strip() for part in text.split(",") if part.strip())
    for origin in sorted(origins):
        if origin != ANY_ORIGIN and ORIGIN_PATTERN.fullmatch(origin) is None:
            raise ValueError("must be origins like https://app.example.com, separated by commas, or *")
    return origins
