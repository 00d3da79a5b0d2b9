"""What families of models are known to refuse, and what is sent to them instead.

For translated requests only: a request in the provider's own dialect is sent as it is. docs/dialects.md has the table.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ...providers.openai_compatible import OPENAI_HOSTS
from ...values.base import Value
from ...values.catalog import Deployment
from ...values.errors import NotTranslatable
from .efforts import ANTHROPIC_EFFORTS, nearest
from .short_names import fit_call_ids

Document = dict[str, Any]
Version = tuple[int, int]
# Changes the fields of a document, and yields the names of those that it drops.
Adapt = Callable[[Document], Iterator[str]]
# The reason why a document cannot be sent, None where it can.
Refuse = Callable[[Document], NotTranslatable | None]


class Family(Value, frozen=True, kw_only=True):
    """Models by their names.

    name: for the documents
    models: found in the model's name; its groups, if any, are the version
    hosts: found in the base URL; "" for any server
    """

    name: str
    models: str
    hosts: str = ""

    def version_of(self, model: str, base_url: str) -> Version | None:
        """The version of a model, (0, 0) where its name has none; None for another family."""
        match = re.search(self.models, model, re.IGNORECASE)
        if match is None or re.search(self.hosts, base_url) is None:
            return None
        numbers = [int(group or 0) for group in match.groups()] + [0, 0]
        return numbers[0], numbers[1]


class Limit(Value, frozen=True, kw_only=True):
    """One thing that a family is known to refuse.

    dialects: of the requests that it applies to
    since, below: versions of the family; `below` is not included
    does: what is done, for the documents
    adapt, refuse: what is sent instead, or why nothing can be
    efforts: the reasoning efforts that it has, () for none; any other is replaced by the nearest
    source, checked: where it is stated, and the month in which that was read
    """

    family: Family
    dialects: tuple[str, ...] = ("chat",)
    since: Version = (0, 0)
    below: Version = (999, 0)
    does: str = ""
    adapt: Adapt | None = None
    refuse: Refuse | None = None
    efforts: tuple[str, ...] | None = None
    source: str
    checked: str = "2026-11"


def adapted(document: Document, dialect: str, deployment: Deployment) -> tuple[Document, tuple[str, ...]]:
    """Return the document as the deployment's model accepts it, and the names of what was dropped."""
    limits = _limits_of(dialect, deployment.model, deployment.base_url)
    changed = {**document}
    dropped = [name for limit in limits if limit.adapt is not None for name in limit.adapt(changed)]
    if "reasoning_effort" in changed or "output_config" in changed:
        dropped += _fit_effort(changed, next((limit.efforts for limit in limits if limit.efforts is not None), None))
    return changed, tuple(dropped)


def _fit_effort(document: Document, accepted: tuple[str, ...] | None) -> Iterator[str]:
    """Replace an effort that the model lacks by the nearest; `accepted` is None for an unknown model."""
    config = document.get("output_config") or {}
    if config.get("effort") is not None:
        document["output_config"] = {**config, "effort": nearest(config["effort"], accepted or ANTHROPIC_EFFORTS)}
    effort = document.pop("reasoning_effort", None)
    if effort is None:
        return
    if accepted == () or (accepted is None and effort == "none"):
        yield "reasoning_effort"
    else:
        document["reasoning_effort"] = nearest(effort, accepted or _EFFORTS_OF_OTHERS)


def refusal_of(document: Document, dialect: str, deployment: Deployment) -> NotTranslatable | None:
    """Return the error that names what the deployment's model cannot be sent, None without one."""
    rules = (limit.refuse for limit in _limits_of(dialect, deployment.model, deployment.base_url) if limit.refuse)
    return next((error for refuse in rules if (error := refuse(document)) is not None), None)


def requires_reasoning(dialect: str, deployment: Deployment) -> bool:
    """Whether the deployment's model refuses a history without the reasoning of its turns."""
    return dialect == "chat" and any(
        family.version_of(deployment.model, deployment.base_url) is not None
        for family in (_DEEPSEEK_THINKING, _KIMI_THINKING)
    )


def with_reasoning(document: Document, reasoning: Mapping[int, str]) -> Document:
    """Return the document with the reasoning of its assistant turns; a blank stands for what is not known."""
    messages = [
        {**message, "reasoning_content": reasoning.get(place) or " "} if message.get("role") == "assistant" else message
        for place, message in enumerate(document["messages"])
    ]
    return {**document, "messages": messages}


@lru_cache(maxsize=1024)
def _limits_of(dialect: str, model: str, base_url: str) -> tuple[Limit, ...]:
    """The limits of a model; a configuration has few."""
    versions = ((limit, limit.family.version_of(model, base_url)) for limit in LIMITS if dialect in limit.dialects)
    return tuple(limit for limit, version in versions if version is not None and limit.since <= version < limit.below)


def _drop(*names: str, unless: Callable[[Document], bool] = lambda _: False) -> Adapt:
    """Drop these fields; their default of 1 without a word."""

    def adapt(document: Document) -> Iterator[str]:
        for name in names:
            if name in document and not unless(document) and document.pop(name) != 1:
                yield name

    return adapt


def _one_sampler(document: Document) -> Iterator[str]:
    if document.get("temperature") is not None and document.pop("top_p", None) not in (None, 1):
        yield "top_p"


def _does_not_reason(document: Document) -> bool:
    return document.get("reasoning_effort") in (None, "none")


def _refuse(name: str, why: str) -> Refuse:
    return lambda document: NotTranslatable(name, why) if document.get(name) else None


def _refuse_many_tools(document: Document) -> NotTranslatable | None:
    count = len(document.get("tools") or ())
    return NotTranslatable("tools", f"OpenAI accepts {_TOOLS_MAX} tools, not {count}") if count > _TOOLS_MAX else None


def _refuse_prefill(document: Document) -> NotTranslatable | None:
    messages = document.get("messages")
    if isinstance(messages, list) and messages and messages[-1].get("role") == "assistant":
        return NotTranslatable("messages", "this model accepts no answer that is begun by the caller")
    return None


def _qwen_effort(document: Document) -> Iterator[str]:
    """Groq's Qwen reasons by its default or not at all."""
    if document.get("reasoning_effort") not in (None, "none"):
        document["reasoning_effort"] = "default"
    yield from ()


def _no_effort_with_tools(document: Document) -> Iterator[str]:
    """OpenAI's newer models reason beside tools in Responses alone."""
    effort = document.get("reasoning_effort")
    if document.get("tools") and effort not in (None, "none"):
        document["reasoning_effort"] = "none"
        yield "reasoning_effort (beside tools)"


def _explicitly_no_effort_with_tools(document: Document) -> Iterator[str]:
    if document.get("tools") and document.get("reasoning_effort") is None:
        document["reasoning_effort"] = "none"
    yield from ()


def _forced_tool_without_thinking(switch: Mapping[str, Any]) -> Adapt:
    """Switch thinking off where a tool is forced."""

    def adapt(document: Document) -> Iterator[str]:
        if document.get("tool_choice") in (None, "auto", "none"):
            return
        document.update(switch)
        if document.pop("reasoning_effort", None) not in (None, "none"):
            yield "reasoning_effort (a tool is forced)"

    return adapt


def _call_ids(valid: str, short_of: Callable[[str], str]) -> Adapt:
    """Replace the ids of calls that the provider refuses, in calls and results."""

    def adapt(document: Document) -> Iterator[str]:
        if "messages" in document:
            document["messages"] = fit_call_ids(document["messages"], re.compile(valid), short_of)
        yield from ()

    return adapt


_TOOLS_MAX = 128
# What servers of unknown models accept.
_EFFORTS_OF_OTHERS = ("low", "medium", "high")
_CLAUDE = Family(name="Claude", models=r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_GPT = Family(name="GPT, but for chat-latest", models=r"(?:^|[/.])gpt-(?!35)(\d+)(?:\.(\d+))?(?![\d.]|o)(?!.*chat)")
_GPT_AT_OPENAI = Family(
    name="GPT at OpenAI and Azure", models=_GPT.models, hosts="|".join(map(re.escape, OPENAI_HOSTS))
)
_O_SERIES = Family(name="o1, o3, o4", models=r"(?:^|[/.])o[134](?:-|$)")
_OPENAI = Family(name="OpenAI and Azure", models="", hosts=_GPT_AT_OPENAI.hosts)
_LITELLM_OPENAI = Family(name="OpenAI and Azure by litellm", models=r"^(?:azure|openai|azure_ai)/")
_MISTRAL = Family(name="Mistral", models=r"(?:mi|mini|magi|code|dev)stral|(?:mix|pix|vox)tral")
_GROK = Family(name="Grok 4 to 4.2, Grok Code", models=r"grok-(?:4(?!\.[3-9](?!\d))|code)")
_GROK_REASONING = Family(name="Grok, reasoning", models=r"grok-(?:3-mini|[4-9]|code)(?!.*non-reasoning)")
_GROK_EFFORT = Family(name="Grok", models=r"grok-(\d)\.(\d)(?!\d)")
_GEMINI = Family(name="Gemini", models="gemini")
_GROQ_QWEN = Family(name="Qwen at Groq", models="qwen", hosts=r"groq\.com")
_GPT_OSS = Family(name="gpt-oss", models="gpt-oss")
_DEEPSEEK_THINKING = Family(name="DeepSeek V4, thinking", models=r"deepseek-(?:v[4-9]|reasoner)")
_KIMI_THINKING = Family(name="Kimi, thinking", models=r"kimi-(?:k2-thinking|k2[.p][5-9]|k[3-9]|for-coding)")
_DEEPSEEK = Family(name="DeepSeek V4", models=_DEEPSEEK_THINKING.models, hosts=r"deepseek\.com")
_KIMI = Family(name="Kimi", models="kimi", hosts=r"moonshot\.|kimi\.com")
_QWEN = Family(name="Qwen at Alibaba Cloud", models="qw", hosts=r"aliyuncs\.com")
_BOTH = ("chat", "messages")

LIMITS: Sequence[Limit] = (
    Limit(
        family=_CLAUDE, dialects=_BOTH, since=(4, 1), below=(4, 7), adapt=_one_sampler,
        does="`top_p` is dropped beside `temperature`", source="docs.anthropic.com, migration guide",
    ),
    Limit(
        family=_CLAUDE, dialects=_BOTH, since=(4, 7), adapt=_drop("temperature", "top_p", "top_k"),
        does="`temperature`, `top_p` and `top_k` are dropped", source="docs.anthropic.com, migration guide",
    ),
    Limit(
        family=_CLAUDE, dialects=_BOTH, since=(4, 6), refuse=_refuse_prefill,
        does="a history that ends with the assistant is refused", source="docs.anthropic.com, what's new in Claude 4.6",
    ),
    Limit(
        family=_CLAUDE, dialects=("messages",), since=(4, 5), below=(4, 6), efforts=("low", "medium", "high"), source="docs.anthropic.com, effort",
    ),
    Limit(
        family=_CLAUDE, dialects=("messages",), since=(4, 6), below=(4, 7),
        efforts=("low", "medium", "high", "max"), source="docs.anthropic.com, effort",
    ),
    Limit(
        family=_O_SERIES, adapt=_drop("temperature", "top_p", "parallel_tool_calls"),
        does="`temperature`, `top_p` and `parallel_tool_calls` are dropped", source="developers.openai.com, reasoning",
    ),
    Limit(
        family=_GPT, since=(5, 0), below=(5, 1), adapt=_drop("temperature", "top_p"),
        does="`temperature` and `top_p` are dropped", source="developers.openai.com, latest model, parameter compatibility",
    ),
    Limit(
        family=_GPT, since=(5, 1), below=(5, 5), adapt=_drop("temperature", "top_p", unless=_does_not_reason),
        does="`temperature` and `top_p` are dropped where the model reasons",
        source="developers.openai.com, latest model, parameter compatibility",
    ),
    Limit(
        family=_GPT, since=(5, 5), adapt=_drop("temperature", "top_p"),
        does="`temperature` and `top_p` are dropped", source="API error: only the default (1) value is supported",
    ),
    Limit(
        family=_O_SERIES, refuse=_refuse("stop", "this model accepts no stop sequences"),
        does="stop sequences are refused", source="API reference, chat completions, stop",
    ),
    Limit(
        family=_GPT, since=(5, 0), refuse=_refuse("stop", "this model accepts no stop sequences"),
        does="stop sequences are refused", source="API error: 'stop' is not supported with this model",
    ),
    Limit(
        family=_O_SERIES, efforts=("low", "medium", "high"), source="developers.openai.com, reasoning",
    ),
    Limit(
        family=_GPT, since=(5, 0), below=(5, 1), efforts=("minimal", "low", "medium", "high"), source="developers.openai.com, reasoning",
    ),
    Limit(
        family=_GPT, since=(5, 1), below=(5, 2), efforts=("none", "low", "medium", "high"), source="API error: supported values are: 'none', 'low', 'medium', and 'high'",
    ),
    Limit(
        family=_GPT, since=(5, 2), efforts=("none", "low", "medium", "high", "xhigh"), source="developers.openai.com, reasoning",
    ),
    Limit(
        family=_GPT_AT_OPENAI, since=(5, 4), adapt=_no_effort_with_tools,
        does="the effort beside tools is `none`", source="openai/openai-openapi#541",
    ),
    Limit(
        family=_GPT_AT_OPENAI, since=(5, 6), adapt=_explicitly_no_effort_with_tools,
        does="the effort beside tools is `none`, also where the caller names none", source="API error: use /v1/responses or set reasoning_effort to 'none'",
    ),
    Limit(
        family=_OPENAI, refuse=_refuse_many_tools,
        does=f"more than {_TOOLS_MAX} tools are refused", source="API error: array_above_max_length",
    ),
    Limit(
        family=_LITELLM_OPENAI, adapt=_call_ids(r"(?s).{1,40}", lambda digest: f"call_{digest[:24]}"),
        does="call ids over 40 characters are shortened", source="API error: string_above_max_length",
    ),
    Limit(
        family=_MISTRAL, adapt=_call_ids(r"[a-zA-Z0-9]{9}", lambda digest: digest[:9]),
        does="call ids become nine letters and digits", source="API error: must be a-z, A-Z, 0-9, with a length of 9",
    ),
    Limit(
        family=_GROK, efforts=(), source="docs.x.ai, reasoning",
    ),
    Limit(
        family=_GROK_REASONING, refuse=_refuse("stop", "this model accepts no stop sequences"),
        does="stop sequences are refused", source="docs.x.ai, reasoning",
    ),
    Limit(
        family=_GROQ_QWEN, adapt=_qwen_effort, efforts=("none", "default"),
        does="every effort but `none` is `default`", source="console.groq.com, reasoning",
    ),
    Limit(
        family=_GROK_EFFORT, since=(4, 3), below=(4, 5), efforts=("none", "low", "medium", "high"), source="docs.x.ai, reasoning",
    ),
    Limit(
        family=_GEMINI, efforts=("none", "minimal", "low", "medium", "high"), source="ai.google.dev, OpenAI compatibility",
    ),
    Limit(
        family=_GPT_OSS, efforts=("low", "medium", "high"), source="openai/gpt-oss, README",
    ),
    Limit(
        family=_DEEPSEEK, adapt=_forced_tool_without_thinking({"thinking": {"type": "disabled"}}),
        does="thinking is switched off where a tool is forced", source="api-docs.deepseek.com, thinking mode",
    ),
    Limit(
        family=_KIMI, adapt=_forced_tool_without_thinking({"thinking": {"type": "disabled"}}),
        does="thinking is switched off where a tool is forced", source="platform.moonshot.ai, thinking models",
    ),
    Limit(
        family=_QWEN, adapt=_forced_tool_without_thinking({"enable_thinking": False}),
        does="thinking is switched off where a tool is forced", source="alibabacloud.com, Model Studio, deep thinking",
    ),
    Limit(
        family=_DEEPSEEK_THINKING, does="the reasoning of earlier turns is sent back, a blank for what is not known",
        source="api-docs.deepseek.com, thinking mode",
    ),
    Limit(
        family=_KIMI_THINKING, does="the reasoning of earlier turns is sent back, a blank for what is not known",
        source="platform.moonshot.ai, thinking models",
    ),
)  # fmt: skip
