"""Test helpers for sessions: agent requests and conversations."""

import json
from typing import Any

from gateway.dialects import chat
from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions import ladder
from gateway.sessions.ladder import LoopState
from gateway.sessions.lineage import History
from gateway.sessions.session_index import Session, SessionIndex
from gateway.values.budget import add_amounts
from gateway.values.request import Request

NOW = 1_790_000_000.0


def chat_request(messages: list[dict[str, Any]], **fields: Any) -> Request:
    return chat.parse(json.dumps({"model": "auto", "messages": messages, **fields}).encode())


def opening_messages(text: str = "do it") -> list[dict[str, Any]]:
    return [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": text}]


def tool_call(number: int, arguments: str = '{"cmd": "ls"}', name: str = "bash") -> dict[str, Any]:
    return {"id": f"call_{number:08d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_step(
    number: int, result: str, arguments: str = '{"cmd": "ls"}', text: str | None = None
) -> list[dict[str, Any]]:
    call = tool_call(number, arguments)
    return [
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
    ]


class AgentCaller:
    """Sends requests as agents do, each with the whole history; answers are recorded."""

    def __init__(self) -> None:
        self.sessions, self.request_count, self.now = SessionIndex(), 0, NOW

    def ask(
        self, messages: list[dict[str, Any]], key: str = "k1", answer: AnswerFingerprint | None = None, **fields: Any
    ) -> Session:
        self.request_count += 1
        self.now += 1
        session = self.sessions.match_or_create(
            key, History(key, chat_request(messages)), fresh_id=f"s{self.request_count}", now=self.now, **fields
        )
        if answer is not None:
            self.sessions.record_answer(key, session, session.newest_digest, answer)
        session.spent = add_amounts(session.spent, (0, 0, 1, 0, 0))
        return session


class LoopConversation:
    """One conversation and its score; `seconds` pass between two requests."""

    def __init__(self, *, seconds: float = 3.0) -> None:
        self.session = Session(id="s", source="", started_at=NOW)
        self.history = opening_messages()
        self.now, self.gap_seconds = NOW, seconds
        self.step_number = 0
        self.scores: list[float] = []

    def observe(self, **fields: Any) -> LoopState:
        self.now += self.gap_seconds
        loop_state = ladder.observe(self.session, chat_request(self.history, **fields), now=self.now)
        self.scores.append(loop_state.score)
        return loop_state

    def tool_turn(self, result: str, arguments: str = '{"cmd": "ls"}', text: str | None = None) -> LoopState:
        self.step_number += 1
        self.history = self.history + tool_step(self.step_number, result, arguments, text)
        return self.observe()

    def text_turn(self, words: str, reply: str) -> LoopState:
        self.history = [*self.history, {"role": "assistant", "content": words}, {"role": "user", "content": reply}]
        return self.observe()
