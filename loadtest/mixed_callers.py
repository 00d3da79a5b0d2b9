"""The callers of the overspend test: conversations in three dialects, streamed or not, some of them badly behaved.

A conversation is one to four turns in one session, each at any of the gateways. Prompts order upstream faults from the
simulated providers; some callers disconnect during the answer, or before it. Some ask for a service tier, for web
searches or for compaction, in their own dialect; the providers do as asked, or not.
"""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tight_budgets import KEYS

# Shares of conversations that ask for a service tier, for searches, and (messages) for compaction.
_TIER_SHARE, _SEARCH_SHARE, _COMPACTION_SHARE = 0.25, 0.2, 0.5
_TIERS = ("priority", "priority", "flex", "auto")
# A search and a compaction run at the provider of the caller's dialect only.
_SEARCH_ROUTES = {"responses": ("auto", "small", "best"), "messages": ("claude",)}
# Results of a search are kept small, as the budgets are.
_SEARCH_LIMITS = {"max_content_tokens": 150, "max_uses": 1}
# What is in an answer that has one.
_EXTRA_MARKS = {
    "priority": b'"service_tier":"priority"', "flex": b'"service_tier":"flex"', "searches": b"web_search_",
    "compaction": b'"compaction"',
}  # fmt: skip
# Longest duration of a call, whatever fails.
CALL_SECONDS = 60.0
_PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
_ROUTE_WEIGHTS = {"auto": 5, "small": 2, "spread": 2, "best": 3, "shaky": 3, "claude": 2}
_FAULTS = (
    "status:500", "status:429", "status:400", "cut", "cut", "no_usage", "garbage", "error_event", "hang", "hang_mid",
)  # fmt: skip
_PROMPTS = ("Summarize the meeting of this morning", "Debug this function for me", "What is next on the list",
          "Explain why the build is slow", "Translate the notes")  # fmt: skip
_TOOL_SCHEMA = {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]}


@dataclass
class CallerOutcomes:
    """Outcomes as the callers saw them.

    outcomes: calls by outcome
    violations: answers that must not occur
    store_down_seconds: time until a call was answered 503 for the store; calls without an ordered upstream fault
    statuses: calls by HTTP status
    extras: answers with a service tier, searches, compaction
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    store_down_seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    extras: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """Number of calls."""
        return sum(self.outcomes.values())


@dataclass
class Conversation:
    """One conversation: key, dialect, route and history so far."""

    number: int
    key: str
    dialect: str
    route: str
    headers: dict[str, str]
    turns: int
    tools: bool
    terms: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class MixedCallers:
    """Makes `calls` calls over the gateways at `bases`; conversations begin within `ramp_seconds`."""

    def __init__(self, bases: list[str], calls: int, randomness: random.Random, ramp_seconds: float) -> None:
        self._base_urls, self._calls, self._random, self._ramp_seconds = bases, calls, randomness, ramp_seconds
        self.outcomes = CallerOutcomes()

    async def run(self) -> CallerOutcomes:
        """Run every conversation to its end."""
        conversations: list[Conversation] = []
        left = self._calls
        while left > 0:
            conversation = self._new_conversation(len(conversations), left)
            conversations.append(conversation)
            left -= conversation.turns
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._run_conversation(session, conversation) for conversation in conversations))
        return self.outcomes

    def _new_conversation(self, number: int, left: int) -> Conversation:
        randomness = self._random
        key, dialect = randomness.choice(list(KEYS)), randomness.choices(list(_PATHS), (5, 3, 3))[0]
        headers = {"authorization": f"Bearer {key}", "x-penstock-user": f"user-{randomness.randrange(60)}"}
        # A tenth names no session; another tenth belongs to the tree of an earlier session of its key.
        kind = randomness.random()
        if kind > 0.1:
            headers["x-penstock-session"] = f"{key}-{number}"
        if kind > 0.9:
            headers["x-penstock-parent-session"] = f"{key}-tree-{randomness.randrange(5)}"
        if dialect == "messages":
            headers["anthropic-version"] = "2023-06-01"
        route = randomness.choices(list(_ROUTE_WEIGHTS), list(_ROUTE_WEIGHTS.values()))[0]
        tools = randomness.random() < 0.35
        turns = min(left, randomness.choice((1, 1, 2, 3, 4)))
        return Conversation(number, key, dialect, route, headers, turns, tools, self._terms(dialect, route))

    def _terms(self, dialect: str, route: str) -> dict[str, Any]:
        """Fields of a conversation's bodies that change the price of its answers."""
        randomness = self._random
        terms: dict[str, Any] = {}
        if dialect != "messages" and randomness.random() < _TIER_SHARE:
            terms["service_tier"] = randomness.choice(_TIERS)
        if route in _SEARCH_ROUTES.get(dialect, ()) and randomness.random() < _SEARCH_SHARE:
            kind = "web_search" if dialect == "responses" else "web_search_20250305"
            terms["tools"] = [{"type": kind, "name": "web_search", **_SEARCH_LIMITS}]
        if dialect == "messages" and route == "claude" and randomness.random() < _COMPACTION_SHARE:
            terms["context_management"] = {"edits": [{"type": "compact_20260112"}]}
        return terms

    async def _run_conversation(self, session: aiohttp.ClientSession, conversation: Conversation) -> None:
        await asyncio.sleep(self._random.uniform(0, self._ramp_seconds))
        for turn in range(conversation.turns):
            conversation.history.append({"role": "user", "content": self._prompt(conversation, turn)})
            started = time.monotonic()
            try:
                outcome, text = await self._call(session, conversation)
            except TimeoutError:
                outcome, text = "hung", ""
                self.outcomes.violations.append(
                    f"no answer within {CALL_SECONDS:g} s: {conversation.dialect} {conversation.route}"
                )
            except (aiohttp.ClientError, ConnectionError):
                outcome, text = "broken", ""
            if outcome == "store_down" and '"fault"' not in str(conversation.history[-1]):
                # Calls with an ordered fault may have waited for something else before.
                self.outcomes.store_down_seconds.append(time.monotonic() - started)
            self.outcomes.outcomes[outcome] += 1
            if conversation.tools:
                conversation.history += _tool_messages(
                    conversation.dialect, f"call_{conversation.number}_{turn}", f"cat {conversation.number}-{turn}.txt"
                )
            else:
                conversation.history.append({"role": "assistant", "content": text or "Nothing."})

    def _prompt(self, conversation: Conversation, turn: int) -> str:
        randomness = self._random
        order: dict[str, Any] = {"output_tokens": randomness.choice((3, 8, 20, 60, 150))}
        if conversation.route == "shaky" and randomness.random() < 0.7:
            order |= {"fault": randomness.choice(("status:500", "status:503", "cut", "hang_mid")), "at": "sim-flaky"}
        elif randomness.random() < 0.12:
            order["fault"] = randomness.choice(_FAULTS)
            if randomness.random() < 0.5:
                order["times"] = 1
        if "service_tier" in conversation.terms and randomness.random() < 0.2:
            order["tier"] = "default"
        if "tools" in conversation.terms:
            order["searches"] = randomness.choice((0, 1, 3))
        if "context_management" in conversation.terms:
            order["compacts"] = randomness.random() < 0.7
        if conversation.tools and turn == 0:
            order["tool_calls"] = [{"name": "bash", "arguments": {"cmd": f"cat {conversation.number}-{turn}.txt"}}]
        return f"{randomness.choice(_PROMPTS)}, number {conversation.number}.{turn}. [[sim {json.dumps(order)}]]"

    def _body(self, conversation: Conversation) -> dict[str, Any]:
        randomness = self._random
        body: dict[str, Any] = {"model": conversation.route, "stream": randomness.random() < 0.6}
        limit = randomness.choice((None, None, 16, 40, 100, 250))
        if conversation.dialect == "responses":
            body["input"] = list(conversation.history)
            body |= {"max_output_tokens": limit} if limit else {}
            tool: dict[str, Any] = {"type": "function", "name": "bash", "parameters": _TOOL_SCHEMA}
        elif conversation.dialect == "messages":
            body |= {"messages": list(conversation.history), "max_tokens": limit or 400}
            tool = {"name": "bash", "description": "A shell.", "input_schema": _TOOL_SCHEMA}
        else:
            body |= {"messages": list(conversation.history)} | ({"max_tokens": limit} if limit else {})
            tool = {"type": "function", "function": {"name": "bash", "parameters": _TOOL_SCHEMA}}
        tools = [*([tool] if conversation.tools else []), *conversation.terms.get("tools", ())]
        return body | conversation.terms | ({"tools": tools} if tools else {})

    async def _call(self, session: aiohttp.ClientSession, conversation: Conversation) -> tuple[str, str]:
        """(outcome, beginning of the answer)."""
        randomness, body = self._random, self._body(conversation)
        url = randomness.choice(self._base_urls) + _PATHS[conversation.dialect]
        impatient = randomness.random()
        if impatient < 0.04:
            try:
                async with asyncio.timeout(randomness.uniform(0.005, 0.5)):
                    return await self._answer(session, url, conversation, body, leave_after=None)
            except TimeoutError:
                return "left", ""
        leave_after = randomness.randrange(1, 12) if body["stream"] and impatient < 0.14 else None
        return await self._answer(session, url, conversation, body, leave_after=leave_after)

    async def _answer(
        self,
        session: aiohttp.ClientSession,
        url: str,
        conversation: Conversation,
        body: dict[str, Any],
        *,
        leave_after: int | None,
    ) -> tuple[str, str]:
        async with session.post(url, json=body, headers=conversation.headers) as answer:
            if answer.status == 200 and leave_after is not None:
                for _ in range(leave_after):
                    if not await answer.content.readany():
                        return "completed", ""
                answer.close()
                return "left", ""
            text = await answer.read()
            return self._outcome(answer.status, text, conversation), text[:40].decode("utf-8", "replace")

    def _outcome(self, status: int, text: bytes, conversation: Conversation) -> str:
        self.outcomes.statuses[str(status)] += 1
        if status == 200:
            self.outcomes.extras.update(name for name, mark in _EXTRA_MARKS.items() if mark in text)
            return "completed"
        if b"budget_exceeded" in text or b"cap_exceeded" in text or b"budget_held" in text:
            return "refused"
        if status == 503 and b"budget store" in text.lower():
            return "store_down"
        if status == 500 or (status == 400 and b"[[sim" not in text and b"simulated" not in text.lower()):
            self.outcomes.violations.append(f"{status} {conversation.dialect} {conversation.route}: {text[:300]!r}")
        return "failed"


def _tool_messages(dialect: str, id: str, command: str) -> list[dict[str, Any]]:
    """A tool call and its result, as messages of a history."""
    arguments, result = {"cmd": command}, f"{command}: 3 lines"
    if dialect == "responses":
        call = {"type": "function_call", "call_id": id, "name": "bash", "arguments": json.dumps(arguments)}
        return [call, {"type": "function_call_output", "call_id": id, "output": result}]
    if dialect == "messages":
        tool_use = {"type": "tool_use", "id": id, "name": "bash", "input": arguments}
        tool_result = {"type": "tool_result", "tool_use_id": id, "content": result}
        return [{"role": "assistant", "content": [tool_use]}, {"role": "user", "content": [tool_result]}]
    function = {"name": "bash", "arguments": json.dumps(arguments)}
    tool_call = {"id": id, "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
    return [message, {"role": "tool", "tool_call_id": id, "content": result}]
