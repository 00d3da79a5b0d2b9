"""Agents for the tests of sessions: their requests, and the conversations that they hold."""

import json
from typing import Any

from gateway.dialects import chat
from gateway.dialects.answer_fingerprint import Beginning
from gateway.sessions import ladder
from gateway.sessions.ladder import Standing
from gateway.sessions.lineage import History
from gateway.sessions.session_index import Session, SessionBook
from gateway.values.budget import added
from gateway.values.request import Request

NOW = 1_790_000_000.0


def parsed(messages: list[dict[str, Any]], **fields: Any) -> Request:
    return chat.parse(json.dumps({"model": "auto", "messages": messages, **fields}).encode())


def opening(text: str = "do it") -> list[dict[str, Any]]:
    return [{"role": "system", "content": "You are an agent."}, {"role": "user", "content": text}]


def call(number: int, arguments: str = '{"cmd": "ls"}', name: str = "bash") -> dict[str, Any]:
    return {"id": f"call_{number:08d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def step(number: int, result: str, arguments: str = '{"cmd": "ls"}', said: str | None = None) -> list[dict[str, Any]]:
    made = call(number, arguments)
    return [
        {"role": "assistant", "content": said, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": result},
    ]


class Agents:
    """Asks as agents do, with their whole history each time; every answer is heard."""

    def __init__(self) -> None:
        self.book, self.count, self.now = SessionBook(), 0, NOW

    def ask(
        self, messages: list[dict[str, Any]], key: str = "k1", answer: Beginning | None = None, **fields: Any
    ) -> Session:
        self.count += 1
        self.now += 1
        session = self.book.inferred(
            key, History(key, parsed(messages)), fresh_id=f"s{self.count}", now=self.now, **fields
        )
        if answer is not None:
            self.book.answered(key, session, session.tip, answer)
        session.spent = added(session.spent, (0, 0, 1, 0, 0))
        return session


class Talk:
    """One conversation and its score; `seconds` pass between two requests."""

    def __init__(self, *, seconds: float = 3.0) -> None:
        self.session = Session(id="s", source="", started_at=NOW)
        self.history = opening()
        self.now, self.seconds = NOW, seconds
        self.number = 0
        self.scores: list[float] = []

    def observe(self, **fields: Any) -> Standing:
        self.now += self.seconds
        standing = ladder.observe(self.session, parsed(self.history, **fields), now=self.now)
        self.scores.append(standing.score)
        return standing

    def does(self, result: str, arguments: str = '{"cmd": "ls"}', said: str | None = None) -> Standing:
        self.number += 1
        self.history = self.history + step(self.number, result, arguments, said)
        return self.observe()

    def says(self, words: str, reply: str) -> Standing:
        self.history = [*self.history, {"role": "assistant", "content": words}, {"role": "user", "content": reply}]
        return self.observe()
