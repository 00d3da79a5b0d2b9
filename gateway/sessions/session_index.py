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

from ..dialects.answer_fingerprint import NO_FINGERPRINT, AnswerFingerprint
from ..values.budget import NO_LINES, ZERO_AMOUNTS, Amounts, ApplicableLines, Measure, SessionCaps, add_amounts
from ..values.carbon_receipt import EMPTY_RECEIPT, CarbonReceipt
from ..values.errors import BadRequest
from ..values.session import LoopThresholds, SessionStop
from . import lineage
from .lineage import History
from .loop_guard import Conversation

# Sessions kept in this process, and nodes and answers to know them by, oldest out first.
SESSIONS_MAX = 50_000
HISTORY_NODES_MAX = 100_000
# Sessions above one whose caps are its own as well.
_ANCESTORS_MAX = 64
# Sessions that are remembered to have sent the same history, or to have been given the same answer.
_SESSIONS_PER_DIGEST_MAX = 16
# Sessions that wait with the same history for longer than this were left by their agents (seconds).
_ABANDONED_SECONDS = 600.0


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
        """Calls that were answered here."""
        return self.spent[2]

    @property
    def charge_nusd(self) -> int:
        """What they were charged."""
        return self.spent[Measure.nusd] or 0


class _HistoryNode(msgspec.Struct, frozen=True, gc=False):
    """One request of a session and what its path had taken before it was served."""

    session: Session
    amounts_before: Amounts


class SessionIndex:
    """Sessions by id and by lineage, bounded; the least recently used are forgotten."""

    def __init__(self, capacity: int = SESSIONS_MAX, nodes: int = HISTORY_NODES_MAX) -> None:
        self._sessions_max, self._nodes_max = capacity, nodes
        # By key: one that makes up sessions without end crowds out its own first.
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
        """The session that the caller names, within its own key. `parent` started it: it belongs to that one's tree;
        `root` is its head, where the caller says so."""
        session = self.get(key, session_id)
        if session is None:
            session = self._store(key, Session(id=session_id, source=source, started_at=now))
            if parent is not None and parent != session_id:
                self._set_parent(key, session, parent)
            if root and root not in (session.root, session_id):
                self._set_root(key, session, root)
        return session

    def _set_parent(self, key: str, session: Session, parent: str) -> None:
        """The session was started by `parent`; one that nobody knows yet is taken for the head of its tree."""
        head = self.get(key, parent)
        if head is None:
            head = self._store(key, Session(id=parent, source="parent", started_at=session.started_at))
        if head.depth >= _ANCESTORS_MAX:
            raise BadRequest(f"Sub-agents are started at most {_ANCESTORS_MAX} levels deep.", param="parent")
        session.parent, session.root = parent, head.root
        session.depth = head.depth + 1
        session.ancestors = (head, *head.ancestors)[:_ANCESTORS_MAX]
        head.child_count += 1

    def _set_root(self, key: str, session: Session, root: str) -> None:
        """The caller says who is at the head of the tree; what lies between may be known to other gateways only."""
        head = self.get(key, root)
        if head is None:
            head = self._store(key, Session(id=root, source="parent", started_at=session.started_at))
        session.root = root
        session.parent = session.parent or root
        session.depth = max(session.depth, 1)
        if head not in session.ancestors:
            session.ancestors = (*session.ancestors[: _ANCESTORS_MAX - 1], head)
        for one in session.ancestors:
            if one.root == one.id and one.source == "parent" and not one.call_count:
                # All that is known of it is that it started this one.
                one.root = root

    def get(self, key: str, session_id: str) -> Session | None:
        """The session of that id, None if nobody remembers."""
        sessions = self._sessions_by_key.get(key)
        session = sessions.get(session_id) if sessions is not None else None
        if session is not None and sessions is not None:
            sessions.move_to_end(session_id)
        return session

    def is_certain(self, history: History) -> bool:
        """Whether this book knows for sure whose history this is: others may have the same one elsewhere."""
        for digest, answer in history.earlier_requests():
            nodes = self._nodes_by_digest.get(digest, ())
            if nodes:
                said = lineage.answer_beginning(answer)
                return any(
                    lineage.answers_match(_answer_at(one.session, digest) or NO_FINGERPRINT, said) for one in nodes
                )
        return False

    def add_remote_request(
        self, key: str, session: Session, digest: int, heard: AnswerFingerprint, *, now: float
    ) -> None:
        """Another gateway has served the session's request with this history, and answered so."""
        if all(node.session is not session for node in self._nodes_by_digest.get(digest, ())):
            session.newest_digest, session.newest_answer, session.newest_answered, session.newest_at = (
                digest,
                heard,
                True,
                now,
            )
            self._add_node(digest, session)

    def add_answer(self, session: Session, digest: int) -> None:
        """Another gateway has given the session this answer."""
        alike = self._sessions_by_answer.get(digest, ())
        if not any(one is session for one in alike):
            self._sessions_by_answer[digest] = (*alike, session)[-_SESSIONS_PER_DIGEST_MAX:]
        self._sessions_by_answer.move_to_end(digest)
        _evict(self._sessions_by_answer, self._nodes_max)

    def match_or_create(
        self, key: str, history: History, *, fresh_id: str, now: float, repeated: bool = False
    ) -> Session:
        """The session whose previous request this one continues, else a new one called `fresh_id`. `repeated`: the
        caller says that it sends this once more."""
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

    def record_answer(self, key: str, session: Session, tip: int, heard: AnswerFingerprint) -> None:
        """An answer was given to the session's request with the history `tip`; it begins like this."""
        if session.newest_digest == tip:
            session.newest_answered, session.newest_answer = True, heard
        for digest in lineage.answer_digests(key, heard):
            self.add_answer(session, digest)

    def most_recent(self) -> list[tuple[str, Session]]:
        """(key, session) of all of them, the most recently used of each key first."""
        return [
            (key, session) for key, sessions in self._sessions_by_key.items() for session in reversed(sessions.values())
        ]

    def keys_of(self, session_id: str) -> list[str]:
        """The keys that have a session of that id."""
        return [key for key, sessions in self._sessions_by_key.items() if session_id in sessions]

    def __len__(self) -> int:
        return self.session_count + len(self._nodes_by_digest)

    def _find_repeated(self, history: History, repeated: bool) -> Session | None:
        """The session whose newest request this is once more, because no answer to it came, or the caller says so. What
        opens a conversation is otherwise a new one; what continues one may be another that waits for the same."""
        alike = [
            node.session
            for node in self._nodes_by_digest.get(history.digest, ())
            if node.session.newest_digest == history.digest
        ]
        again = [session for session in alike if repeated or not (session.newest_answered or history.is_opening)]
        return again[-1] if again else None

    def _find_continued(self, history: History, now: float) -> Session | None:
        """The session that waits at the previous request, the first of several of which no more is known."""
        for digest, answer in history.earlier_requests():
            nodes = self._nodes_by_digest.get(digest, ())
            if not nodes:
                continue
            waiting = [node.session for node in nodes if _answer_at(node.session, digest) is not None]
            said = lineage.answer_beginning(answer)
            told = [lineage.answers_match(_answer_at(one, digest) or NO_FINGERPRINT, said) for one in waiting]
            fitting = [one for one, fits in zip(waiting, told, strict=True) if fits]
            unknown = [one for one, fits in zip(waiting, told, strict=True) if fits is None]
            found = _longest_waiting(fitting, now) or _longest_waiting(unknown, now)
            if found is None:
                # It went on already: the same once more.
                found = next(
                    (
                        node.session
                        for node in self._nodes_by_digest.get(history.digest, ())[::-1]
                        if node.session.newest_digest == history.digest
                    ),
                    None,
                )
            return found
        return None

    def _fork(self, history: History, fresh_id: str) -> Session | None:
        """A session that parts from another after one of its earlier answers: it inherits the totals of the path, the
        request that was answered included."""
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
        """The one session that was given the newest answers of a history that nobody sent before."""
        if any(digest in self._nodes_by_digest for digest, _ in history.earlier_requests()):
            return None
        found: set[int] | None = None
        by_id: dict[int, Session] = {}
        for _, answer in history.earlier_requests():
            keys = lineage.answer_digests(key, lineage.answer_beginning(answer))
            alike = [session for digest in keys for session in self._sessions_by_answer.get(digest, ())]
            if not alike:
                continue
            by_id |= {id(session): session for session in alike}
            ids = {id(session) for session in alike}
            found = ids if found is None else (found & ids or found)
            if len(found) == 1:
                return by_id[found.pop()]
        return None

    def _add_node(self, digest: int, session: Session) -> None:
        node = _HistoryNode(session, add_amounts(session.inherited, session.spent))
        others = tuple([one for one in self._nodes_by_digest.get(digest, ()) if one.session is not session])
        self._nodes_by_digest[digest] = (*others[1 - _SESSIONS_PER_DIGEST_MAX :], node)
        self._nodes_by_digest.move_to_end(digest)
        _evict(self._nodes_by_digest, self._nodes_max)

    def _store(self, key: str, session: Session) -> Session:
        sessions = self._sessions_by_key.setdefault(key, OrderedDict())
        self.session_count += session.id not in sessions
        sessions[session.id] = session
        if self.session_count > self._sessions_max:
            fair = self._sessions_max // len(self._sessions_by_key)
            crowd = sessions if len(sessions) > fair else max(self._sessions_by_key.values(), key=len)
            crowd.popitem(last=False)
            self.session_count -= 1
        return session


def _answer_at(session: Session, digest: int) -> AnswerFingerprint | None:
    """What the session was answered to the request with this history, if it waits there; None if it does not."""
    if session.newest_digest == digest:
        return session.newest_answer
    return session.last_answered[1] if session.newest_failed and session.last_answered[0] == digest else None


def _longest_waiting(sessions: list[Session], now: float) -> Session | None:
    """Of several that wait for the same, the first that came; what was left by its agent comes last."""
    fresh = [session for session in sessions if now - session.newest_at <= _ABANDONED_SECONDS]
    if fresh:
        return min(fresh, key=lambda session: session.newest_at)
    return max(sessions, key=lambda session: session.newest_at, default=None)


def _evict(table: OrderedDict[Any, Any], capacity: int) -> None:
    while len(table) > capacity:
        table.popitem(last=False)
