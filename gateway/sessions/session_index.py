"""Whose request this is: an id that the agent sends, else the conversation's own lineage. A book.

Agents that send nothing still send their whole history each time: the next request's history up to its newest answer
is the previous request. A node is remembered for each request under the digest of its history (`lineage.py`), within
the caller's key. Requests that open a conversation open a session: equal openings are the rule in batch work, and their
continuations are told apart by what was answered. Two continuations of one answer part: the second is a new session
that inherits the path's totals. A history that was rewritten is known by the answers in it.
"""

from collections import OrderedDict
from typing import Any

import msgspec

from ..dialects.answer_fingerprint import UNHEARD, Beginning
from ..values.budget import NOTHING_MET, NOTHING_SPENT, Amounts, Measure, Met, SessionCaps, added
from ..values.carbon_receipt import NO_RECEIPT, Receipt
from ..values.errors import BadRequest
from ..values.session import LoopLimits, Stop
from . import lineage
from .lineage import History
from .loop_guard import Conversation

# Sessions kept in this process, and nodes and answers to know them by, oldest out first.
SESSIONS_MAX = 50_000
NODES_MAX = 100_000
# Sessions above one whose caps are its own as well.
_ABOVE_MAX = 64
# Sessions that are remembered to have sent the same history, or to have been given the same answer.
_ALIKE_MAX = 16
# Sessions that wait with the same history for longer than this were left by their agents (seconds).
_WAITING_SECONDS = 600.0


class Session(msgspec.Struct, eq=False):
    """One agent's run, as the books see it. `spent` is what its calls took here, `inherited` what its path had taken
    before it parted from another; `tip` is the digest of its newest request, `tip_at` when that came, `heard` how the
    answer to it begins and `answered` whether one was given, `failed` that none will be: then it goes on from
    `settled`, what was answered before. `alike`: others may have sent the same; `seen_at` is when it last asked,
    `was_stopped` whether it ever was; `provider` the one that served it last. `root` is the session at the head of its
    tree: its own id unless another session started it, `depth` how far below that it is, `children` how many it has
    started, `above` those that started it, nearest first. `own` are the caps that whoever started it has set, in its
    words (`own_told`) and told by `own_version`; `admitted`: it was counted as a sub-agent, `joining` that it is about
    to be. An operator has added `more_seconds`. `input_per_byte` and `cached_share` are how its provider counted its
    newest input: tokens per byte of body, and the share read from a cache; `input_tokens` is how long it was, `warm` what
    each deployment's cache may hold of it (routing/prospects.py), `wanted_more` whether its last call wanted more than the
    lowest tier. `receipt` is what its own calls took of energy and carbon, `units` the work that was reported.

    Of the loop guard: `talks` are its conversations, numbered as they begin, `taken` the steps of the ladder that were
    taken, `watched` those that were only observed, `limits` those that it was stopped by, `moved` where that took it,
    `stop` why it is not served, last asked in vain at `stop_seen_at`, `hammered` times; `exempt` from the guard, by an
    operator, whose `note` the model will see and whose `label` says whether it was a loop. `resumes` counts how often
    it was let go on, `changed_at` is when another replica last said something of it.
    """

    id: str
    source: str
    started_at: float
    tip: int = 0
    tip_at: float = 0.0
    heard: Beginning = UNHEARD
    answered: bool = False
    failed: bool = False
    settled: tuple[int, Beginning] = (0, UNHEARD)
    seen_at: float = 0.0
    was_stopped: bool = False
    alike: bool = False
    provider: str = ""
    inherited: Amounts = NOTHING_SPENT
    spent: Amounts = NOTHING_SPENT
    receipt: Receipt = NO_RECEIPT
    units: float | None = None
    parent: str = ""
    root: str = ""
    input_per_byte: float = 0.0
    cached_share: float = 0.0
    talks: dict[int, Conversation] = {}
    conversations: int = 0
    depth: int = 0
    children: int = 0
    taken: frozenset[str] = frozenset()
    stop: Stop | None = None
    stop_seen_at: float = 0.0
    hammered: int = 0
    exempt: bool = False
    note: str = ""
    label: str = ""
    resumes: int = 0
    changed_at: float = 0.0
    lines: Met = NOTHING_MET
    lines_stamp: tuple[int | bool, ...] = ()
    above: tuple["Session", ...] = ()
    own: SessionCaps | None = None
    own_version: int = 0
    own_told: str = ""
    more_seconds: float = 0.0
    watched: frozenset[str] = frozenset()
    limits: LoopLimits | None = None
    moved: str = ""
    admitted: bool = False
    joining: bool = False
    warm: dict[str, Any] = {}
    wanted_more: bool | None = None
    input_tokens: int = 0

    def __post_init__(self) -> None:
        self.root = self.root or self.id

    @property
    def calls(self) -> int:
        """Calls that were answered here."""
        return self.spent[2]

    @property
    def charge_nusd(self) -> int:
        """What they were charged."""
        return self.spent[Measure.nusd] or 0


class _Node(msgspec.Struct, frozen=True, gc=False):
    """One request of a session and what its path had taken before it was served."""

    session: Session
    taken: Amounts


class SessionBook:
    """Sessions by id and by lineage, bounded; the least recently used are forgotten."""

    def __init__(self, capacity: int = SESSIONS_MAX, nodes: int = NODES_MAX) -> None:
        self._capacity, self._nodes_max = capacity, nodes
        # By key: one that makes up sessions without end crowds out its own first.
        self._sessions: dict[str, OrderedDict[str, Session]] = {}
        self.count = 0
        self._nodes: OrderedDict[int, tuple[_Node, ...]] = OrderedDict()
        self._answers: OrderedDict[int, tuple[Session, ...]] = OrderedDict()

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
        """The session that the caller names, within its own key. `parent` started it: it belongs to that one's tree;
        `root` is its head, where the caller says so."""
        session = self.of(key, session_id)
        if session is None:
            session = self._kept(key, Session(id=session_id, source=source, started_at=now))
            if parent is not None and parent != session_id:
                self._belong(key, session, parent)
            if root and root not in (session.root, session_id):
                self._belong_to(key, session, root)
        return session

    def _belong(self, key: str, session: Session, parent: str) -> None:
        """The session was started by `parent`; one that nobody knows yet is taken for the head of its tree."""
        head = self.of(key, parent)
        if head is None:
            head = self._kept(key, Session(id=parent, source="parent", started_at=session.started_at))
        if head.depth >= _ABOVE_MAX:
            raise BadRequest(f"Sub-agents are started at most {_ABOVE_MAX} levels deep.", param="parent")
        session.parent, session.root = parent, head.root
        session.depth = head.depth + 1
        session.above = (head, *head.above)[:_ABOVE_MAX]
        head.children += 1

    def _belong_to(self, key: str, session: Session, root: str) -> None:
        """The caller says who is at the head of the tree; what lies between may be known to other gateways only."""
        head = self.of(key, root)
        if head is None:
            head = self._kept(key, Session(id=root, source="parent", started_at=session.started_at))
        session.root = root
        session.parent = session.parent or root
        session.depth = max(session.depth, 1)
        if head not in session.above:
            session.above = (*session.above[: _ABOVE_MAX - 1], head)
        for one in session.above:
            if one.root == one.id and one.source == "parent" and not one.calls:
                # All that is known of it is that it started this one.
                one.root = root

    def of(self, key: str, session_id: str) -> Session | None:
        """The session of that id, None if nobody remembers."""
        sessions = self._sessions.get(key)
        session = sessions.get(session_id) if sessions is not None else None
        if session is not None and sessions is not None:
            sessions.move_to_end(session_id)
        return session

    def finds(self, history: History) -> bool:
        """Whether this book knows for sure whose history this is: others may have the same one elsewhere."""
        for digest, answer in history.earlier():
            nodes = self._nodes.get(digest, ())
            if nodes:
                said = lineage.said_by(answer)
                return any(lineage.matches(_heard_at(one.session, digest) or UNHEARD, said) for one in nodes)
        return False

    def waits(self, key: str, session: Session, digest: int, heard: Beginning, *, now: float) -> None:
        """Another gateway has served the session's request with this history, and answered so."""
        if all(node.session is not session for node in self._nodes.get(digest, ())):
            session.tip, session.heard, session.answered, session.tip_at = digest, heard, True, now
            self._note(digest, session)

    def given(self, session: Session, digest: int) -> None:
        """Another gateway has given the session this answer."""
        alike = self._answers.get(digest, ())
        if not any(one is session for one in alike):
            self._answers[digest] = (*alike, session)[-_ALIKE_MAX:]
        self._answers.move_to_end(digest)
        _trim(self._answers, self._nodes_max)

    def inferred(self, key: str, history: History, *, fresh_id: str, now: float, repeated: bool = False) -> Session:
        """The session whose previous request this one continues, else a new one called `fresh_id`. `repeated`: the
        caller says that it sends this once more."""
        session = self._again(history, repeated) or self._continued(history, now) or self._rewritten(key, history)
        if session is None:
            session = self._kept(
                key, self._parted(history, fresh_id) or Session(id=fresh_id, source="new", started_at=now)
            )
        else:
            session.source = "lineage"
            if self.of(key, session.id) is None:
                self._kept(key, session)
        session.alike = history.opens or len(self._nodes.get(history.digest, ())) > 0
        if session.tip != history.digest:
            if session.answered:
                session.settled = (session.tip, session.heard)
            session.tip, session.heard, session.answered = history.digest, UNHEARD, False
        session.failed = False
        session.tip_at = now
        self._note(history.digest, session)
        return session

    def answered(self, key: str, session: Session, tip: int, heard: Beginning) -> None:
        """An answer was given to the session's request with the history `tip`; it begins like this."""
        if session.tip == tip:
            session.answered, session.heard = True, heard
        for digest in lineage.answer_keys(key, heard):
            self.given(session, digest)

    def newest(self) -> list[tuple[str, Session]]:
        """(key, session) of all of them, the most recently used of each key first."""
        return [(key, session) for key, sessions in self._sessions.items() for session in reversed(sessions.values())]

    def keys_of(self, session_id: str) -> list[str]:
        """The keys that have a session of that id."""
        return [key for key, sessions in self._sessions.items() if session_id in sessions]

    def __len__(self) -> int:
        return self.count + len(self._nodes)

    def _again(self, history: History, repeated: bool) -> Session | None:
        """The session whose newest request this is once more, because no answer to it came, or the caller says so. What
        opens a conversation is otherwise a new one; what continues one may be another that waits for the same."""
        alike = [node.session for node in self._nodes.get(history.digest, ()) if node.session.tip == history.digest]
        again = [session for session in alike if repeated or not (session.answered or history.opens)]
        return again[-1] if again else None

    def _continued(self, history: History, now: float) -> Session | None:
        """The session that waits at the previous request, the first of several of which no more is known."""
        for digest, answer in history.earlier():
            nodes = self._nodes.get(digest, ())
            if not nodes:
                continue
            waiting = [node.session for node in nodes if _heard_at(node.session, digest) is not None]
            said = lineage.said_by(answer)
            told = [lineage.matches(_heard_at(one, digest) or UNHEARD, said) for one in waiting]
            fitting = [one for one, fits in zip(waiting, told, strict=True) if fits]
            unknown = [one for one, fits in zip(waiting, told, strict=True) if fits is None]
            found = _longest_waiting(fitting, now) or _longest_waiting(unknown, now)
            if found is None:
                # It went on already: the same once more.
                found = next(
                    (
                        node.session
                        for node in self._nodes.get(history.digest, ())[::-1]
                        if node.session.tip == history.digest
                    ),
                    None,
                )
            return found
        return None

    def _parted(self, history: History, fresh_id: str) -> Session | None:
        """A session that parts from another after one of its earlier answers: it inherits the totals of the path, the
        request that was answered included."""
        for digest, _answer in history.earlier():
            for node in reversed(self._nodes.get(digest, ())):
                stop = node.session.stop
                return Session(
                    id=fresh_id,
                    source="lineage",
                    started_at=node.session.started_at,
                    inherited=added(node.taken, (0, 0, 1, 0, 0)),
                    own=node.session.own,
                    own_version=node.session.own_version,
                    exempt=node.session.exempt,
                    stop=stop if stop is not None and stop.code == "session_killed" else None,
                )
        return None

    def _rewritten(self, key: str, history: History) -> Session | None:
        """The one session that was given the newest answers of a history that nobody sent before."""
        if any(digest in self._nodes for digest, _ in history.earlier()):
            return None
        found: set[int] | None = None
        by_id: dict[int, Session] = {}
        for _, answer in history.earlier():
            keys = lineage.answer_keys(key, lineage.said_by(answer))
            alike = [session for digest in keys for session in self._answers.get(digest, ())]
            if not alike:
                continue
            by_id |= {id(session): session for session in alike}
            ids = {id(session) for session in alike}
            found = ids if found is None else (found & ids or found)
            if len(found) == 1:
                return by_id[found.pop()]
        return None

    def _note(self, digest: int, session: Session) -> None:
        node = _Node(session, added(session.inherited, session.spent))
        others = tuple([one for one in self._nodes.get(digest, ()) if one.session is not session])
        self._nodes[digest] = (*others[1 - _ALIKE_MAX :], node)
        self._nodes.move_to_end(digest)
        _trim(self._nodes, self._nodes_max)

    def _kept(self, key: str, session: Session) -> Session:
        sessions = self._sessions.setdefault(key, OrderedDict())
        self.count += session.id not in sessions
        sessions[session.id] = session
        if self.count > self._capacity:
            fair = self._capacity // len(self._sessions)
            crowd = sessions if len(sessions) > fair else max(self._sessions.values(), key=len)
            crowd.popitem(last=False)
            self.count -= 1
        return session


def _heard_at(session: Session, digest: int) -> Beginning | None:
    """What the session was answered to the request with this history, if it waits there; None if it does not."""
    if session.tip == digest:
        return session.heard
    return session.settled[1] if session.failed and session.settled[0] == digest else None


def _longest_waiting(sessions: list[Session], now: float) -> Session | None:
    """Of several that wait for the same, the first that came; what was left by its agent comes last."""
    fresh = [session for session in sessions if now - session.tip_at <= _WAITING_SECONDS]
    if fresh:
        return min(fresh, key=lambda session: session.tip_at)
    return max(sessions, key=lambda session: session.tip_at, default=None)


def _trim(table: OrderedDict[Any, Any], capacity: int) -> None:
    while len(table) > capacity:
        table.popitem(last=False)
