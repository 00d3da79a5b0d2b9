"""Replays agent sessions with the OpenAI client, several sessions in parallel."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI

from .agent_sessions import AgentSession, ChatMessage

# Refusals that end a session, as they would end an agent.
STOP_CODES = frozenset({"loop_stopped", "budget_exceeded", "cap_exceeded", "session_time_exceeded"})
# The refusal after which a call is sent again: other calls hold what it needs.
HELD_CODE = "budget_held"
# Pause between two calls, in which an agent thinks or runs a tool, seconds.
_PAUSE_SECONDS = (0.05, 0.4)
# While the gateway is unreachable (it may have been killed), a call is repeated for about half a minute.
_MAX_ATTEMPTS, _RETRY_SECONDS = 60, 0.5


@dataclass(slots=True)
class ReplayCounts:
    """Counts of a replay.

    sessions_stopped: by refusal code
    failures: other failures, by kind
    calls_interrupted: lost connections, after which the call is repeated
    """

    calls_sent: int = 0
    calls_answered: int = 0
    sessions_stopped: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    calls_interrupted: int = 0


async def replay(
    sessions: Iterable[AgentSession],
    *,
    base_url: str,
    api_key: str,
    model: str,
    sessions_at_once: int,
    pauses: bool,
    send_session_id: bool,
    progress: Callable[[ReplayCounts], None],
) -> ReplayCounts:
    """Send every call of every session.

    `at_once`: sessions in parallel; `named`: send the session's id as a header, otherwise the gateway infers it.
    """
    tally = ReplayCounts()
    queue = iter(sessions)
    async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120.0) as client:

        async def worker(number: int) -> None:
            randomness = random.Random(number)
            for session in queue:
                await _replay_session(
                    client, session, model, tally, randomness if pauses else None, send_session_id, progress
                )

        await asyncio.gather(*(worker(number) for number in range(sessions_at_once)))
    return tally


async def _replay_session(
    client: AsyncOpenAI,
    session: AgentSession,
    model: str,
    tally: ReplayCounts,
    randomness: random.Random | None,
    named: bool,
    progress: Callable[[ReplayCounts], None],
) -> None:
    stream = hash(session.id) % 2 == 0
    headers = {"x-session-id": session.id} if named else {}
    for history, reply in session.calls():
        if randomness is not None:
            await asyncio.sleep(randomness.uniform(*_PAUSE_SECONDS))
        continues = await _send_call(client, session, history, reply, model, stream, headers, tally)
        progress(tally)
        if not continues:
            return


async def _send_call(
    client: AsyncOpenAI,
    session: AgentSession,
    history: list[ChatMessage],
    reply: ChatMessage,
    model: str,
    stream: bool,
    headers: dict[str, str],
    tally: ReplayCounts,
) -> bool:
    """Send one call; False if the session is over."""
    tools = {"tools": list(session.tools)} if session.tools else {}
    for _ in range(_MAX_ATTEMPTS):
        tally.calls_sent += 1
        try:
            answer = await client.chat.completions.create(
                model=model,
                messages=history,  # type: ignore[arg-type]
                stream=stream,
                extra_body={"sim": {"reply": reply}, **tools},
                extra_headers=headers,
            )
            if isinstance(answer, openai.AsyncStream):
                async for _chunk in answer:
                    pass
        except openai.APIStatusError as error:
            code = str(error.code or error.status_code)
            if code == HELD_CODE:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            (tally.sessions_stopped if code in STOP_CODES else tally.failures)[code] += 1
            return False
        except (openai.APIConnectionError, openai.APIError, OSError) as error:
            if not _connection_lost(error):
                tally.failures[type(error).__name__] += 1
                return False
            tally.calls_interrupted += 1
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            tally.calls_answered += 1
            return True
    tally.failures["gateway_gone"] += 1
    return False


def _connection_lost(error: Exception) -> bool:
    """Whether the connection was lost, rather than an answer given."""
    return isinstance(error, openai.APIConnectionError | OSError) and not isinstance(error, openai.APITimeoutError)
