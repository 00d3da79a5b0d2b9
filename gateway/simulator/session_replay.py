"""Replays agent sessions through the real OpenAI client, each session in order, several at once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI

from .agent_sessions import AgentSession, Message

# Refusals that the gateway's configuration names; a session that meets one is over, as an agent's would be.
STOPS = frozenset({"loop_stopped", "budget_exceeded", "cap_exceeded", "session_time_exceeded"})
# An agent thinks, or runs its tool, between two calls (seconds at normal speed).
_PAUSE_SECONDS = (0.05, 0.4)
# While the gateway is away (it may have been killed), a call is repeated for about half a minute.
_TRIES_MAX, _TRY_AGAIN_SECONDS = 60, 0.5


@dataclass(slots=True)
class Tally:
    """What happened: calls answered, sessions stopped by code, what else went wrong by kind, calls cut by a restart."""

    sent: int = 0
    answered: int = 0
    stopped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    interrupted: int = 0


async def replay(
    sessions: Iterable[AgentSession],
    *,
    base_url: str,
    api_key: str,
    model: str,
    at_once: int,
    pauses: bool,
    named: bool,
    progress: Callable[[Tally], None],
) -> Tally:
    """Send every call of every session. `named` sends the session's id as a header, otherwise the gateway infers it."""
    tally = Tally()
    queue = iter(sessions)
    async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120.0) as client:

        async def worker(number: int) -> None:
            chance = random.Random(number)
            for session in queue:
                await _session(client, session, model, tally, chance if pauses else None, named, progress)

        await asyncio.gather(*(worker(number) for number in range(at_once)))
    return tally


async def _session(
    client: AsyncOpenAI,
    session: AgentSession,
    model: str,
    tally: Tally,
    chance: random.Random | None,
    named: bool,
    progress: Callable[[Tally], None],
) -> None:
    stream = hash(session.id) % 2 == 0
    headers = {"x-session-id": session.id} if named else {}
    for history, reply in session.calls():
        if chance is not None:
            await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))
        going_on = await _call(client, session, history, reply, model, stream, headers, tally)
        progress(tally)
        if not going_on:
            return


async def _call(
    client: AsyncOpenAI,
    session: AgentSession,
    history: list[Message],
    reply: Message,
    model: str,
    stream: bool,
    headers: dict[str, str],
    tally: Tally,
) -> bool:
    """One call; False if the session is over."""
    extra = {"tools": list(session.tools)} if session.tools else {}
    for _ in range(_TRIES_MAX):
        tally.sent += 1
        try:
            answer = await client.chat.completions.create(
                model=model,
                messages=history,  # type: ignore[arg-type]
                stream=stream,
                extra_body={"sim": {"reply": reply}, **extra},
                extra_headers=headers,
            )
            if isinstance(answer, openai.AsyncStream):
                async for _chunk in answer:
                    pass
        except openai.APIStatusError as error:
            code = str(error.code or error.status_code)
            (tally.stopped if code in STOPS else tally.failed)[code] += 1
            return False
        except (openai.APIConnectionError, openai.APIError, OSError) as error:
            if not _broken_off(error):
                tally.failed[type(error).__name__] += 1
                return False
            tally.interrupted += 1
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
        else:
            tally.answered += 1
            return True
    tally.failed["gateway_gone"] += 1
    return False


def _broken_off(error: Exception) -> bool:
    """Whether the connection was lost, rather than an answer given."""
    return isinstance(error, openai.APIConnectionError | OSError) and not isinstance(error, openai.APITimeoutError)
