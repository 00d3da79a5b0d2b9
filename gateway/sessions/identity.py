"""Whose request this is: an id that the agent sends, else the conversation's own lineage.

Agents that send nothing still send their whole history each time: the next request's history up to its newest answer
is the previous request, message for message. A node is remembered for each request under a digest of its messages'
shapes, within the caller's key. Requests that open a conversation always open a session: equal openings are the rule
in batch work. Two continuations of one node part: the second is a new session that inherits the path's totals.
"""

from collections import OrderedDict
from typing import Any

import msgspec

from ..values.budget import NOTHING_MET, Met, SessionCaps
from ..values.request import NOTHING, Message, Request

# Sessions and nodes kept in this process, oldest out first: about 1 kB each, up to 20 kB for the longest.
SESSIONS_MAX = 50_000
# How many trailing answers are tried as the end of the previous request (agents may add several at once).
_ANSWERS_TRIED = 2
_TAIL_CHARS = 256
_TAIL_PARTS = 8


class Conversation(msgspec.Struct):
    """What the loop guard knows of one conversation: messages read, score, and how often each step happened."""

    seen: int = 0
    score: float = 0.0
    steps: dict[int, int] | None = None


class Session(msgspec.Struct):
    """One agent's run, as the books see it. `inherited_*` is what its path had taken before it parted from another;
    `tip` is the digest of its newest request, `provider` the one that served it last. `root` is the session at the head
    of its tree: its own id unless another session started it. `input_per_byte` and `cached_share` are how its provider
    counted its newest input: tokens per byte of body, and the share read from a cache.
    """

    id: str
    source: str
    started_at: float
    tip: int = 0
    provider: str = ""
    inherited_calls: int = 0
    inherited_nusd: int = 0
    calls: int = 0
    charge_nusd: int = 0
    parent: str = ""
    root: str = ""
    input_per_byte: float = 0.0
    cached_share: float = 0.0
    loop_score: float = 0.0
    loop_repeats: int = 0
    talks: dict[int, Conversation] = {}
    lines: Met = NOTHING_MET
    lines_hour: int = -1
    lines_caps: SessionCaps | None = None

    def __post_init__(self) -> None:
        self.root = self.root or self.id


class _Node(msgspec.Struct, frozen=True):
    """One request of a session and what its path had taken before it was served."""

    session: Session
    calls: int
    nusd: int


class SessionBook:
    """Sessions by id and by lineage, bounded; the least recently used are forgotten."""

    def __init__(self, capacity: int = SESSIONS_MAX) -> None:
        self._capacity = capacity
        self._named: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def named(
        self,
        key: str,
        session_id: str,
        source: str,
        *,
        now: float,
        parent: str | None = None,
        root: str | None = None,
    ) -> Session:
        """The session that the caller names, within its own key. `parent` started it: it belongs to that one's tree; `root` is
        its head, where the caller says so."""
        name = (key, session_id)
        session = self._named.get(name)
        if session is None:
            session = self._named[name] = Session(id=session_id, source=source, started_at=now)
            if parent is not None and parent != session_id:
                head = self._named.get((key, parent))
                session.parent, session.root = parent, head.root if head is not None else parent
            session.root = root or session.root
            _trim(self._named, self._capacity)
        else:
            self._named.move_to_end(name)
        return session

    def inferred(self, key: str, request: Request, *, fresh_id: str, now: float) -> Session:
        """The session whose previous request this one continues, else a new one called `fresh_id`."""
        digest = _digest(key, request, len(request.messages))
        parent = self._parent(key, request)
        if parent is None:
            session = Session(id=fresh_id, source="new", started_at=now)
        elif parent[1].session.tip in (parent[0], digest):
            session = parent[1].session
            session.source = "lineage"
        else:
            session = _parted(parent[1], fresh_id)
        session.tip = digest
        self._nodes[digest] = _Node(
            session, session.inherited_calls + session.calls, session.inherited_nusd + session.charge_nusd
        )
        self._nodes.move_to_end(digest)
        _trim(self._nodes, self._capacity)
        return session

    def __len__(self) -> int:
        return len(self._named) + len(self._nodes)

    def _parent(self, key: str, request: Request) -> tuple[int, _Node] | None:
        messages, tried = request.messages, 0
        for place in range(len(messages) - 1, 0, -1):
            if messages[place].role != "assistant":
                continue
            digest = _digest(key, request, place)
            node = self._nodes.get(digest)
            if node is not None:
                return digest, node
            tried += 1
            if tried == _ANSWERS_TRIED:
                break
        return None


def _parted(node: _Node, fresh_id: str) -> Session:
    """A session that parts from another at `node`: it inherits the totals of the path, the request itself included."""
    return Session(
        id=fresh_id,
        source="lineage",
        started_at=node.session.started_at,
        inherited_calls=node.calls + 1,
        inherited_nusd=node.nusd,
    )


def _digest(key: str, request: Request, count: int) -> int:
    """Digest of the first `count` messages: every length, and the text at the ends of the first and last two.

    Python's keyed hash: cheap, and of no use outside this process.
    """
    messages = request.messages
    ends = [text_ends(m) for m in (*messages[: min(2, count)], *messages[max(0, count - 2) : count])]
    return hash((key, tuple(request.sizes[:count]), *ends))


def text_ends(message: Message) -> str:
    """Head and tail of what a message says, enough to tell it from another of the same length."""
    content = message.content
    calls = b"" if message.tool_calls is NOTHING else bytes(memoryview(message.tool_calls)[:_TAIL_CHARS])
    if isinstance(content, list):
        texts = [str(part.get("text"))[:_TAIL_CHARS] for part in content[:_TAIL_PARTS] if isinstance(part, dict)]
        return f"{len(content)}{texts}{calls!r}"
    return f"{content[:_TAIL_CHARS]}{content[-_TAIL_CHARS:]}{calls!r}" if content else f"{calls!r}"


def _trim(table: OrderedDict[Any, Any], capacity: int) -> None:
    while len(table) > capacity:
        table.popitem(last=False)
