"""The table of clients, their scenarios and profiles; a client is one driver, run as a program of its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

SDK = ("text", "stream", "tool", "stream_tool", "structured", "image", "refusal")
BOTH_SCHEMAS = ("text", "stream", "tool", "stream_tool", "structured", "structured_tool", "image", "refusal")
AGENT = ("text", "tool", "refusal")
# In the order of the result table's columns.
SCENARIOS = (
    "text", "stream", "tool", "stream_tool", "structured", "structured_tool", "image", "read_image", "stored", "count",
    "refusal",
)  # fmt: skip
PROFILES = ("direct", "same", "translated", "chat-only", "auto")
# Model names that no client has built in; where a client treats a built-in name differently, that name is a route too.
OPENAI, ANTHROPIC, EMBEDDER = "sim-gpt", "sim-claude", "sim-embedder"
SHELL = "echo tool-output-$((40+2))"
_CITY = {"name": "Lisbon", "inhabitants": 545796}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client.

    driver: file name of its driver, where it is not the client's name
    venv: suffix of its virtual environment's folder
    refusals: most requests that it may make when the first is refused
    calls: tool call (name, arguments) to order from the provider, by scenario
    orders: complete orders to the provider, by scenario, where a tool call is not enough
    """

    name: str
    model: str = OPENAI
    driver: str = ""
    venv: str = ""
    scenarios: tuple[str, ...] = SDK
    profiles: tuple[str, ...] = PROFILES
    refusals: int = 1
    calls: Mapping[str, tuple[str, object]] = field(default_factory=dict)
    orders: Mapping[str, object] = field(default_factory=dict)

    @property
    def anthropic(self) -> bool:
        """Whether its dialect is Messages."""
        return self.model == ANTHROPIC or self.model.startswith("claude-")

    @property
    def file(self) -> str:
        """File name of the driver."""
        name = self.driver or self.name
        return name if "." in name else f"{name}.py"

    def order(self, scenario: str, profile: str) -> Mapping[str, object]:
        """Order to the simulated provider; empty: it answers what the request asks for."""
        if scenario in self.orders:
            return self.orders[scenario]  # type: ignore[return-value]
        if scenario in self.calls:
            name, arguments = self.calls[scenario]
            return {"tool_calls": [{"name": name, "arguments": arguments}]}
        if scenario in ("tool", "stream_tool"):
            return {"tool_calls": [{"name": "weather", "arguments": {"city": "Lisbon"}}]}
        if scenario in ("text", "stream"):
            return {"text": "Hello from the simulator."}
        if scenario == "refusal" and profile == "direct":
            return {"fault": "status:402" if self.anthropic else "status:400"}
        return {}


def agent(
    name: str,
    *,
    tool: tuple[str, object],
    model: str = OPENAI,
    more: Mapping[str, tuple[str, object]] | None = None,
    also: tuple[str, ...] = (),
    driver: str = "",
    refusals: int = 1,
) -> Client:
    """A coding agent; `tool` is its call (name, arguments) that runs a shell command."""
    calls = {"tool": tool, **(more or {})}
    order = ("text", "tool", *(more or {}), *also, "refusal")
    scenarios = tuple(dict.fromkeys(name for name in order))
    return Client(name=name, driver=driver, model=model, scenarios=scenarios, calls=calls, refusals=refusals)


# Codex lets current models call tools from JavaScript, sent as the free text of one custom tool.
_SCRIPT = f"const done = await tools.exec_command({{cmd: {json.dumps(SHELL)}}}); text(done.output)"
# For an upstream without namespaces the gateway moves them into the name, and free text into a field.
_SCRIPTS = [{"name": "exec", "arguments": _SCRIPT}, {"name": "functions__exec", "arguments": {"input": _SCRIPT}}]
_SHELL_CALL = {"command": SHELL, "description": "prints a line"}
_OPENCODE = {"tool": ("bash", _SHELL_CALL), "more": {"read_image": ("read", {"filePath": "picture.png"})}}

CLIENTS = (
    Client(name="openai_chat"),
    Client(name="openai_responses", scenarios=(*SDK[:-1], "stored", "refusal")),
    Client(name="openai_embeddings", model=EMBEDDER, scenarios=("text", "refusal"), profiles=("direct", "same")),
    Client(name="anthropic_messages", model=ANTHROPIC, venv="-2", scenarios=(*SDK[:-1], "count", "refusal")),
    Client(
        name="anthropic_messages_v1",
        driver="anthropic_messages",
        model=ANTHROPIC,
        scenarios=(*SDK[:-1], "count", "refusal"),
    ),
    Client(name="openai_chat_js", driver="openai_chat_js.mjs"),
    Client(name="openai_responses_js", driver="openai_responses_js.mjs"),
    Client(name="anthropic_js", driver="anthropic_js.mjs", model=ANTHROPIC),
    Client(name="ai_sdk_responses", driver="ai_sdk_responses.mjs"),
    Client(name="ai_sdk_chat", driver="ai_sdk_chat.mjs"),
    Client(name="ai_sdk_compatible", driver="ai_sdk_compatible.mjs"),
    Client(name="ai_sdk_anthropic", driver="ai_sdk_anthropic.mjs", model=ANTHROPIC),
    Client(name="openai_agents"),
    Client(name="openai_agents_chat"),
    Client(name="openai_agents_js", driver="openai_agents_js.mjs"),
    Client(name="langgraph_openai", scenarios=BOTH_SCHEMAS),
    Client(name="langgraph_responses", scenarios=BOTH_SCHEMAS),
    Client(name="langgraph_anthropic", model=ANTHROPIC, scenarios=BOTH_SCHEMAS),
    Client(name="pydantic_ai_chat", scenarios=BOTH_SCHEMAS),
    Client(name="pydantic_ai_responses", scenarios=BOTH_SCHEMAS),
    Client(
        name="pydantic_ai_anthropic",
        model=ANTHROPIC,
        scenarios=tuple(name for name in BOTH_SCHEMAS if name != "structured"),
    ),
    Client(name="agent_framework_responses"),
    Client(name="agent_framework_chat"),
    Client(name="agno_chat"),
    Client(name="autogen_chat"),
    Client(
        name="instructor_chat", scenarios=("stream", "structured", "structured_tool", "refusal"), orders={"stream": {}}
    ),
    Client(name="smolagents_chat", scenarios=("text", "stream", "tool", "stream_tool", "refusal")),
    Client(name="llamaindex_chat", venv="-2"),
    Client(
        name="crewai_chat",
        venv="-2",
        scenarios=("text", "stream", "tool", "stream_tool", "structured", "refusal"),
        refusals=3,
    ),
    Client(name="strands_chat", venv="-2", scenarios=("stream", "stream_tool", "structured_tool", "image", "refusal")),
    Client(
        name="dspy_chat",
        venv="-2",
        scenarios=("text", "structured", "refusal"),
        orders={"structured": {"text": json.dumps({"city": _CITY})}},
    ),
    Client(name="litellm_chat", venv="-2"),
    Client(name="litellm_messages", model=ANTHROPIC, venv="-2", scenarios=("text", "stream", "refusal")),
    agent(
        "codex",
        tool=("exec_command", {"cmd": SHELL}),
        more={"read_image": ("view_image", {"path": "picture.png"})},
        also=("image", "structured"),
    ),
    agent("codex_builtin", tool=("exec_command", {"cmd": SHELL})),
    agent("codex_gpt_5_5", driver="codex", model="gpt-5.5", tool=("exec_command", {"cmd": SHELL})),
    Client(
        name="codex_gpt_6",
        driver="codex",
        model="gpt-6-sol",
        scenarios=AGENT,
        orders={"tool": {"tool_calls": _SCRIPTS}},
    ),
    agent(
        "claude_code",
        model=ANTHROPIC,
        tool=("Bash", _SHELL_CALL),
        more={"read_image": ("Read", {"file_path": "picture.png"}), "structured": ("StructuredOutput", _CITY)},
    ),
    agent("claude_code_sonnet", driver="claude_code", model="claude-sonnet-4-5", tool=("Bash", _SHELL_CALL)),
    # It requests a title in parallel with the first request.
    agent("opencode", refusals=2, **_OPENCODE),  # type: ignore[arg-type]
    agent("opencode_responses", refusals=2, **_OPENCODE),  # type: ignore[arg-type]
    agent("opencode_anthropic", model=ANTHROPIC, refusals=2, **_OPENCODE),  # type: ignore[arg-type]
    agent("qwen_code", tool=("run_shell_command", {**_SHELL_CALL, "is_background": False}), refusals=2),
    agent("pi", tool=("bash", {"command": SHELL})),
    agent("cline", tool=("run_commands", {"commands": [SHELL]})),
)
