"""Finds the session of a request by its id or its lineage. State machine.

Agents without an id still send their whole history, and its part before the newest answer is the previous request. So a
node is kept for each request under the digest of its history (`lineage.py`), within the caller's key. An opening starts
a session: equal openings are common in batch work, and the answers separate their continuations. A second continuation
of one answer forks a new session that inherits the path's totals. A rewritten history is matched by its answers.
"""

from collections import OrderedDict
from typing import Any

import msgspec

from ..dialects.answer_fingerprint import NO_FINGERPRINT, AnswerFingerprint
from ..values.budget import NO_LINES, ZERO_AMOUNTS, Amounts, ApplicableLines, Measure, SessionCaps, add_amounts
from ..values.carbon_receipt import EMPTY_RECEIPT, CarbonReceipt
from ..values.errors import BadRequest
from ..values.session import LoopThresholds, SessionStop
from . import lineage
from .lineage import History
from .loop_guard import Conversation

# Sessions in this process, and nodes and answers that identify them; the oldest are dropped first.
SESSIONS_MAX = 50_000
HISTORY_NODES_MAX = 100_000
# Ancestors whose caps apply to a session.
_ANCESTORS_MAX = 64
# Sessions kept per history digest and per answer digest.
_SESSIONS_PER_DIGEST_MAX = 16
# A session that waits longer than this counts as abandoned by its agent (seconds).
_ABANDONED_SECONDS = 600.0


class Session(msgspec.Struct, eq=False):
    """One agent's run. Times are seconds since the epoch.

    id: session id.
    source: how the id was found: a header or body field, `lineage`, `new`, `parent`.
    started_at: start of the session.

    newest_digest: history digest of the newest request.
    newest_at: when the newest request came.
    newest_answer: fingerprint of the answer to the newest request.
    newest_answered: the newest request was answered.
    newest_failed: the newest request will not be answered; the session continues from `last_answered`.
    last_answered: (digest, answer) of the newest request that was answered before.
    last_request_at: last request.
    was_stopped: the session was stopped at least once.
    history_is_shared: other sessions may have sent the same history.
    last_provider: provider that served the last call.

    inherited: amounts of the path before this session forked.
    spent: amounts of the session's own calls in this process.
    receipt: energy and carbon of its own calls.
    reported_units: units of work reported by the caller, None for none.

    parent: session that started this one, "" for none.
    root: head of the session's tree; its own id without a parent.
    depth: levels below the root.
    child_count: sub-agents started.
    ancestors: sessions above it, nearest first.
    is_counted_sub_agent: counted against the sub-agent cap.
    is_joining_tree: about to be counted against it.

    input_per_byte: input tokens per byte of body, as the provider counted them last.
    cached_share: share of that input read from a cache, in [0, 1].
    input_tokens: length of that input.
    warm_caches: prefix that each deployment's cache may hold (routing/session_forecast.py).
    last_needed_higher_tier: the last call needed more than the lowest tier; None if unknown.

    cap_lines, cap_lines_key: cached cap lines and the key of that cache.
    own_caps: caps set by the caller, None for none.
    own_caps_version: incremented with each change of `own_caps`.
    own_caps_text: header text that `own_caps` came from.
    extra_seconds: seconds that operators added to the duration caps.

    conversations_by_key: loop guard state by conversation.
    conversation_count: conversations started; numbers their keys.
    steps_taken: ladder steps that were enforced.
    steps_observed: ladder steps that were only observed.
    stop: why the session is not served, None if it is served.
    stop_limits: thresholds that applied at the stop.
    tier_move: direction of the ladder's tier step, "" before it.
    refused_at: newest refusal since the stop.
    refusals_since_stop: refusals since the stop.
    is_exempt: an operator exempted the session from the loop guard.
    resume_note: operator's note for the model.
    loop_label: operator's judgment whether it was a loop.
    resume_count: how often the session was resumed.
    replica_record_at: newest change published or adopted from another replica.
    """

    id: str
    source: str
    started_at: float
    newest_digest: int = 0
    newest_at: float = 0.0
    newest_answer: AnswerFingerprint = NO_FINGERPRINT
    newest_answered: bool = False
    newest_failed: bool = False
    last_answered: tuple[int, AnswerFingerprint] = (0, NO_FINGERPRINT)
    last_request_at: float = 0.0
    was_stopped: bool = False
    history_is_shared: bool = False
    last_provider: str = ""
    inherited: Amounts = ZERO_AMOUNTS
    spent: Amounts = ZERO_AMOUNTS
    receipt: CarbonReceipt = EMPTY_RECEIPT
    reported_units: float | None = None
    parent: str = ""
    root: str = ""
    input_per_byte: float = 0.0
    cached_share: float = 0.0
    conversations_by_key: dict[int, Conversation] = {}
    conversation_count: int = 0
    depth: int = 0
    child_count: int = 0
    steps_taken: frozenset[str] = frozenset()
    stop: SessionStop | None = None
    refused_at: float = 0.0
    refusals_since_stop: int = 0
    is_exempt: bool = False
    resume_note: str = ""
    loop_label: str = ""
    resume_count: int = 0
    replica_record_at: float = 0.0
    cap_lines: ApplicableLines = NO_LINES
    cap_lines_key: tuple[int | bool, ...] = ()
    ancestors: tuple["Session", ...] = ()
    own_caps: SessionCaps | None = None
    own_caps_version: int = 0
    own_caps_text: str = ""
    extra_seconds: float = 0.0
    steps_observed: frozenset[str] = frozenset()
    stop_limits: LoopThresholds | None = None
    tier_move: str = ""
    is_counted_sub_agent: bool = False
    is_joining_tree: bool = False
    warm_caches: dict[str, Any] = {}
    last_needed_higher_tier: bool | None = None
    input_tokens: int = 0

    def __post_init__(self) -> None:
        self.root = self.root or self.id

    @property
    def call_count(self) -> int:
        """Calls of the session in this process."""
        return self.spent[2]

    @property
    def charge_nusd(self) -> int:
        """Charge of those calls in nUSD."""
        return self.spent[Measure.nusd] or 0


class _HistoryNode(msgspec.Struct, frozen=True, gc=False):
    """One request of a session, and its path's amounts before it was served."""

    session: Session
    amounts_before: Amounts


class SessionIndex:
    """Sessions by id and by lineage, bounded; the least recently used are dropped."""

    def __init__(self, capacity: int = SESSIONS_MAX, nodes: int = HISTORY_NODES_MAX) -> None:
        self._sessions_max, self._nodes_max = capacity, nodes
        # By key, so that a key with endless sessions evicts its own first.
        self._sessions_by_key: dict[str, OrderedDict[str, Session]] = {}
        self.session_count = 0
        self._nodes_by_digest: OrderedDict[int, tuple[_HistoryNode, ...]] = OrderedDict()
        self._sessions_by_answer: OrderedDict[int, tuple[Session, ...]] = OrderedDict()

    def get_or_create(
        self,
        key: str,
        session_id: str,
        source: str,
        *,
        now: float,
        parent: str | None = None,
        root: str | None = None,
    ) -> Session:
        """The session that the caller names, within its own key.

        A new one joins the tree of its `parent`; `root` is the tree's head where the caller gives it.
        """
        session = self.get(key, session_id)
        if session is None:
            session = self._store(key, Session(id=session_id, source=source, started_at=now))
            if parent is not None and parent != session_id:
                self._set_parent(key, session, parent)
            if root and root not in (session.root, session_id):
                self._set_root(key, session, root)
        return session

    def _set_parent(self, key: str, session: Session, parent: str) -> None:
        """Attach the session to `parent`, created if unknown. Raises BadRequest."""
        head = self.get(key, parent)
        if head is None:
            head = self._store(key, Session(id=parent, source="parent", started_at=session.started_at))
        if head.depth >= _ANCESTORS_MAX:
            raise BadRequest(f"Sub-agent nesting too deep; at most {_ANCESTORS_MAX} levels.", param="parent")
        session.parent, session.root = parent, head.root
        session.depth = head.depth + 1
        session.ancestors = (head, *head.ancestors)[:_ANCESTORS_MAX]
        head.child_count += 1

    def _set_root(self, key: str, session: Session, root: str) -> None:
        """Set the head of the tree; other gateways may have sessions in between."""
        head = self.get(key, root)
        if head is None:
            head = self._store(key, Session(id=root, source="parent", started_at=session.started_at))
        session.root = root
        session.parent = session.parent or root
        session.depth = max(session.depth, 1)
        if head not in session.ancestors:
            session.ancestors = (*session.ancestors[: _ANCESTORS_MAX - 1], head)
        for ancestor in session.ancestors:
            if ancestor.root == ancestor.id and ancestor.source == "parent" and not ancestor.call_count:
                # Known only as a parent, so its root was a guess.
                ancestor.root = root

    def get(self, key: str, session_id: str) -> Session | None:
        """The session with that id, None if unknown."""
        sessions = self._sessions_by_key.get(key)
        session = sessions.get(session_id) if sessions is not None else None
        if session is not None and sessions is not None:
            sessions.move_to_end(session_id)
        return session

    def is_certain(self, history: History) -> bool:
        """Whether the history's session is certain without asking other replicas."""
        for digest, answer in history.earlier_requests():
            nodes = self._nodes_by_digest.get(digest, ())
            if nodes:
                fingerprint = lineage.answer_fingerprint(answer)
                return any(
                    lineage.answers_match(_answer_at(node.session, digest) or NO_FINGERPRINT, fingerprint)
                    for node in nodes
                )
        return False

    def add_remote_request(self, session: Session, digest: int, answer: AnswerFingerprint, *, now: float) -> None:
        """Record a request of the session that another gateway answered."""
        if all(node.session is not session for node in self._nodes_by_digest.get(digest, ())):
            session.newest_digest, session.newest_answer, session.newest_answered, session.newest_at = (
                digest,
                answer,
                True,
                now,
            )
            self._add_node(digest, session)

    def add_answer(self, session: Session, digest: int) -> None:
        """Record an answer digest of the session."""
        sessions = self._sessions_by_answer.get(digest, ())
        if not any(other is session for other in sessions):
            self._sessions_by_answer[digest] = (*sessions, session)[-_SESSIONS_PER_DIGEST_MAX:]
        self._sessions_by_answer.move_to_end(digest)
        _evict(self._sessions_by_answer, self._nodes_max)

    def match_or_create(
        self, key: str, history: History, *, fresh_id: str, now: float, repeated: bool = False
    ) -> Session:
        """The session that this request continues, else a new one called `fresh_id`.

        `repeated`: the caller marks the request as a retry.
        """
        session = (
            self._find_repeated(history, repeated)
            or self._find_continued(history, now)
            or self._find_rewritten(key, history)
        )
        if session is None:
            session = self._store(
                key, self._fork(history, fresh_id) or Session(id=fresh_id, source="new", started_at=now)
            )
        else:
            session.source = "lineage"
            if self.get(key, session.id) is None:
                self._store(key, session)
        session.history_is_shared = history.is_opening or len(self._nodes_by_digest.get(history.digest, ())) > 0
        if session.newest_digest != history.digest:
            if session.newest_answered:
                session.last_answered = (session.newest_digest, session.newest_answer)
            session.newest_digest, session.newest_answer, session.newest_answered = (
                history.digest,
                NO_FINGERPRINT,
                False,
            )
        session.newest_failed = False
        session.newest_at = now
        self._add_node(history.digest, session)
        return session

    def record_answer(self, key: str, session: Session, history_digest: int, answer: AnswerFingerprint) -> None:
        """Record the answer to the session's request with this history digest."""
        if session.newest_digest == history_digest:
            session.newest_answered, session.newest_answer = True, answer
        for digest in lineage.answer_digests(key, answer):
            self.add_answer(session, digest)

    def most_recent(self) -> list[tuple[str, Session]]:
        """(key, session) of all sessions, the most recently used of each key first."""
        return [
            (key, session) for key, sessions in self._sessions_by_key.items() for session in reversed(sessions.values())
        ]

    def keys_of(self, session_id: str) -> list[str]:
        """The keys that have a session of that id."""
        return [key for key, sessions in self._sessions_by_key.items() if session_id in sessions]

    def __len__(self) -> int:
        return self.session_count + len(self._nodes_by_digest)

    def _find_repeated(self, history: History, repeated: bool) -> Session | None:
        """The session whose unanswered, or explicitly retried, newest request this is.

        An opening is otherwise a new session; a continuation may belong to another session with the same history.
        """
        waiting = [
            node.session
            for node in self._nodes_by_digest.get(history.digest, ())
            if node.session.newest_digest == history.digest
        ]
        retried = [session for session in waiting if repeated or not (session.newest_answered or history.is_opening)]
        return retried[-1] if retried else None

    def _find_continued(self, history: History, now: float) -> Session | None:
        """The session that waits after the previous request, the first of several."""
        for digest, answer in history.earlier_requests():
            nodes = self._nodes_by_digest.get(digest, ())
            if not nodes:
                continue
            waiting = [node.session for node in nodes if _answer_at(node.session, digest) is not None]
            fingerprint = lineage.answer_fingerprint(answer)
            verdicts = [
                lineage.answers_match(_answer_at(session, digest) or NO_FINGERPRINT, fingerprint) for session in waiting
            ]
            matching = [session for session, matches in zip(waiting, verdicts, strict=True) if matches]
            undecided = [session for session, matches in zip(waiting, verdicts, strict=True) if matches is None]
            session = _longest_waiting(matching, now) or _longest_waiting(undecided, now)
            if session is None:
                # Already continued: this request is a repeat.
                session = next(
                    (
                        node.session
                        for node in self._nodes_by_digest.get(history.digest, ())[::-1]
                        if node.session.newest_digest == history.digest
                    ),
                    None,
                )
            return session
        return None

    def _fork(self, history: History, fresh_id: str) -> Session | None:
        """A new session that forks from another after one of its earlier answers.

        It inherits the totals of the path, the answered request included.
        """
        for digest, _answer in history.earlier_requests():
            for node in reversed(self._nodes_by_digest.get(digest, ())):
                stop = node.session.stop
                return Session(
                    id=fresh_id,
                    source="lineage",
                    started_at=node.session.started_at,
                    inherited=add_amounts(node.amounts_before, (0, 0, 1, 0, 0)),
                    own_caps=node.session.own_caps,
                    own_caps_version=node.session.own_caps_version,
                    is_exempt=node.session.is_exempt,
                    stop=stop if stop is not None and stop.code == "session_killed" else None,
                )
        return None

    def _find_rewritten(self, key: str, history: History) -> Session | None:
        """The only session that received the newest answers of an unknown history."""
        if any(digest in self._nodes_by_digest for digest, _ in history.earlier_requests()):
            return None
        candidates: set[int] | None = None
        by_id: dict[int, Session] = {}
        for _, answer in history.earlier_requests():
            keys = lineage.answer_digests(key, lineage.answer_fingerprint(answer))
            sessions = [session for digest in keys for session in self._sessions_by_answer.get(digest, ())]
            if not sessions:
                continue
            by_id |= {id(session): session for session in sessions}
            ids = {id(session) for session in sessions}
            candidates = ids if candidates is None else (candidates & ids or candidates)
            if len(candidates) == 1:
                return by_id[candidates.pop()]
        return None

    def _add_node(self, digest: int, session: Session) -> None:
        node = _HistoryNode(session, add_amounts(session.inherited, session.spent))
        others = tuple([other for other in self._nodes_by_digest.get(digest, ()) if other.session is not session])
        self._nodes_by_digest[digest] = (*others[1 - _SESSIONS_PER_DIGEST_MAX :], node)
        self._nodes_by_digest.move_to_end(digest)
        _evict(self._nodes_by_digest, self._nodes_max)

    def _store(self, key: str, session: Session) -> Session:
        sessions = self._sessions_by_key.setdefault(key, OrderedDict())
        self.session_count += session.id not in sessions
        sessions[session.id] = session
        if self.session_count > self._sessions_max:
            fair_share = self._sessions_max // len(self._sessions_by_key)
            evicted_from = sessions if len(sessions) > fair_share else max(self._sessions_by_key.values(), key=len)
            evicted_from.popitem(last=False)
            self.session_count -= 1
        return session


def _answer_at(session: Session, digest: int) -> AnswerFingerprint | None:
    """The answer to this history if the session waits after it, else None."""
    if session.newest_digest == digest:
        return session.newest_answer
    return session.last_answered[1] if session.newest_failed and session.last_answered[0] == digest else None


def _longest_waiting(sessions: list[Session], now: float) -> Session | None:
    """The session that has waited longest, abandoned ones last."""
    fresh = [session for session in sessions if now - session.newest_at <= _ABANDONED_SECONDS]
    if fresh:
        return min(fresh, key=lambda session: session.newest_at)
    return max(sessions, key=lambda session: session.newest_at, default=None)


def _evict(table: OrderedDict[Any, Any], capacity: int) -> None:
    while len(table) > capacity:
        table.popitem(last=False)
