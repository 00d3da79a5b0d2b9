"""Ids, signatures and sealed texts that the simulated provider issues and checks."""

import base64
import hashlib
import itertools
import json
import re

# Anthropic's rule for tool ids, as in its error message.
TOOL_ID_PATTERN = re.compile(r"[a-zA-Z0-9_-]+")
_SEAL_PREFIX = "gAAAAAsim"


class IdIssuer:
    """Issues ids that are valid for one account.

    Numbers count up from one, so that a run repeats exactly.
    """

    def __init__(self, account: str, instance: str) -> None:
        self._account = account
        # Ids of two providers differ, so that one cannot be taken for the other's.
        self._instance = instance
        self._sequence = itertools.count(1)

    def next_number(self) -> int:
        """The next answer's number."""
        return next(self._sequence)

    def id(self, prefix: str, *parts: object, length: int = 24) -> str:
        """An id as long as real ones, derived from the prefix, the account and the parts."""
        return (
            prefix
            + hashlib.blake2b(
                repr((self._account, self._instance, prefix, *parts)).encode(), digest_size=32
            ).hexdigest()[:length]
        )

    def sign(self, text: str) -> str:
        """The signature of a thinking block."""
        digest = hashlib.blake2b(f"{self._account}\0{text}".encode(), digest_size=24).digest()
        return base64.b64encode(b"sim-signature:" + digest).decode()

    def is_signed(self, text: object, signature: object) -> bool:
        """Whether that signature was issued here for this text."""
        return isinstance(text, str) and signature == self.sign(text)

    def seal(self, text: str) -> str:
        """Encrypted content: opaque to others, and bound to the account."""
        return _SEAL_PREFIX + base64.urlsafe_b64encode(json.dumps([text, self.sign(text)]).encode()).decode()

    def is_sealed(self, sealed: object) -> bool:
        """Whether that content was sealed here and has not been changed."""
        if not isinstance(sealed, str) or not sealed.startswith(_SEAL_PREFIX):
            return False
        try:
            text, signature = json.loads(base64.urlsafe_b64decode(sealed.removeprefix(_SEAL_PREFIX)))
        except (ValueError, TypeError):
            return False
        return self.is_signed(text, signature)
