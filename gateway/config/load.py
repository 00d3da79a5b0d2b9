"""routing.yaml -> World, or every complaint at once as `file:line:column: what is wrong, what would be right`."""

import copy
import hashlib
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from ..values import catalog
from ..values.budget import SessionCaps, tightest_caps
from ..values.errors import ConfigError
from ..values.request import Caller
from ..values.snapshot import Snapshot, Webhook
from . import schema
from .budgets import budgets_of as budgets_of
from .budgets import session_caps_of as caps_of
from .deployments import deployments_of as deployments_of
from .deployments import price_changes_at as changes_of
from .energy import energy_policy_of as green_of
from .energy import feeds_of as feeds_of
from .quality import cascade_of as cascade_of
from .quality import learning_of as learning_of
from .quality import quality_policy_of as quality_of
from .quality import roles_of as roles_of
from .reader import ConfigReader, did_you_mean
from .sessions import loop_policy_of as loops_of
from .sessions import session_fields_of as fields_of
from .yaml_tree import YamlPath, parse_yaml

# Ceilings of the small and the medium tier where the file has none. Learned: on the public test files 0.25 sends 38 % of the
# prompts to the frontier and keeps 90 % of its quality, 0.20 sends 59 % and keeps 95 % (docs/routing.md). Transparent:
# set by hand, like its weights.
_TIER_CEILINGS_DEFAULT = {"learned": (0.25, 0.35), "transparent": (0.45, 0.70)}
_OPEN_CALLER = Caller(key="anonymous", team="default")
# Leaving out what does not fit can uncover what then is missing; a few rounds reach the end of it.
_VALIDATION_ROUNDS_MAX = 8


def load(
    path: FilePath, env: Mapping[str, str], *, need_secrets: bool = True, now: float | None = None
) -> tuple[Snapshot, list[str]]:
    """Read a file; gives the World at `now` (seconds since the epoch; None: the machine's time) and notes on what works
    but may surprise. Raises ConfigError with all complaints."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}:1:1: cannot be read: {error}"]) from error
    return parse(text, str(path), env, need_secrets=need_secrets, now=now)


def parse(
    text: str, name: str, env: Mapping[str, str], *, need_secrets: bool = True, now: float | None = None
) -> tuple[Snapshot, list[str]]:
    """Like `load`, from text."""
    reader = ConfigReader(name=name, tree=parse_yaml(text), env=env, need_secrets=need_secrets)
    reader.complaints += reader.tree.complaints
    _check_references(reader)
    document = _validate(reader) if reader.tree.data is not None or not reader.complaints else None
    snapshot = _snapshot(reader, document, text, time.time() if now is None else now) if document else None
    if reader.complaints or snapshot is None:
        ordered = sorted(set(reader.complaints))
        raise ConfigError([f"{name}:{line}:{column}: {sentence}" for line, column, sentence in ordered])
    return snapshot, reader.notes


def _validate(reader: ConfigReader) -> schema.RoutingConfig | None:
    """The file in its shape. What does not fit is complained about and left out, so that the rest is checked as well."""
    data = copy.deepcopy(reader.tree.data)
    for attempt in range(_VALIDATION_ROUNDS_MAX):
        try:
            return schema.RoutingConfig.model_validate(data)
        except ValidationError as error:
            if attempt == 0:
                _complain_about(reader, error)
            problems = error.errors(include_url=False, include_context=False, include_input=False)
        for problem in sorted(problems, key=lambda one: len(one["loc"]), reverse=True):
            path: YamlPath = tuple(part for part in problem["loc"] if part != "[key]")
            if not path or not isinstance(data, dict):
                return None
            _remove(data, path[:-1] if problem["type"] == "missing" else path)
    return None


def _remove(data: Any, path: YamlPath) -> None:
    """Take one place out of the document."""
    for part in path[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    if path and isinstance(data, dict):
        data.pop(path[-1], None)
    elif path and isinstance(data, list) and isinstance(path[-1], int) and path[-1] < len(data):
        del data[path[-1]]


def _complain_about(reader: ConfigReader, error: ValidationError) -> None:
    """pydantic's errors in our words, at their place in the file."""
    for problem in error.errors(include_url=False, include_context=True):
        path: YamlPath = tuple(part for part in problem["loc"] if part != "[key]")
        last = str(path[-1]) if path else "document"
        kind, context = problem["type"], problem.get("ctx", {})
        if kind == "missing":
            reader.complain(path[:-1], f"'{last}' is missing; add it here")
        elif kind == "extra_forbidden":
            reader.complain(path, f"unknown key '{last}'{did_you_mean(last, _field_names())}", at_key=True)
        elif kind == "literal_error":
            reader.complain(path, f"'{last}' must be {context.get('expected')}, not {_quoted(problem['input'])}")
        elif kind == "bool_type":
            reader.complain(path, f"'{last}' must be true or false, not {_quoted(problem['input'])}")
        elif kind == "string_type":
            reader.complain(path, f"'{last}' must be text, not {_quoted(problem['input'])}; put it in quotes")
        elif kind == "string_pattern_mismatch":
            reader.complain(
                path, f"{_quoted(problem['input'])} does not fit here; it must match {context.get('pattern')}"
            )
        elif kind in ("model_type", "dict_type"):
            reader.complain(path, f"'{last}' must be a mapping (key: value), not {_quoted(problem['input'])}")
        elif kind == "value_error":
            reader.complain(path, f"'{last}' {context.get('error')}, not {_quoted(problem['input'])}")
        else:
            reader.complain(path, f"'{last}' is wrong: {problem['msg'][0].lower()}{problem['msg'][1:]}")


def _check_references(reader: ConfigReader) -> None:
    """Names that point to nothing, looked up in the file as it stands, so that other mistakes do not hide them."""
    providers, deployments = reader.raw_section("providers"), reader.raw_section("deployments")
    for name, doc in deployments.items():
        provider = doc.get("provider") if isinstance(doc, dict) else None
        if isinstance(provider, str) and provider not in providers:
            reader.complain(
                ("deployments", name, "provider"), f"unknown provider '{provider}'{did_you_mean(provider, providers)}"
            )
    for name, doc in reader.raw_section("routes").items():
        candidates = doc.get("candidates") if isinstance(doc, dict) else None
        for number, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, str) and candidate not in deployments:
                reader.complain(
                    ("routes", name, "candidates", number),
                    f"unknown deployment '{candidate}'{did_you_mean(candidate, deployments)}",
                )


def _snapshot(reader: ConfigReader, document: schema.RoutingConfig, text: str, now: float) -> Snapshot:
    deployments = deployments_of(reader, document, now)
    changes = changes_of(document)
    passed = sum(1 for at in changes if at <= now)
    task_types = tuple(
        catalog.TaskType(
            name=name,
            words=frozenset(word.lower() for word in task.words),
            tools=frozenset(task.tools),
            complexity_shift=float(task.complexity_shift),
        )
        for name, task in document.task_types.items()
    )
    if document.quality.keep is not None and document.classifier == "transparent":
        reader.complain(("quality", "keep"), "floors are fitted to the learned classifier; leave 'classifier' out")
    caps = caps_of(reader, document.sessions.caps, document.sessions.each, ("sessions",))
    return Snapshot(
        # A price that has taken effect makes another configuration of the same file.
        generation=hashlib.sha256((text + f"#{passed}" * bool(passed)).encode()).hexdigest()[:12],
        next_price_change_at=next((at for at in changes if at > now), None),
        deployments=deployments,
        routes=_routes(reader, document, deployments),
        task_types=task_types,
        budgets=budgets_of(reader, document, open_caller=_OPEN_CALLER),
        default_caps=caps,
        key_caps=_key_caps(reader, document, caps),
        loop_policy=loops_of(reader, document.loops, reader.raw_section("routes"), reader.raw_section("task_types")),
        routing_policy=_tier_policy(reader, document),
        energy_policy=green_of(reader, document.energy, document.task_types),
        grid_feeds=feeds_of(reader, document),
        quality_policy=quality_of(reader, document.quality, document.task_types),
        classifier=document.classifier,
        cascade=cascade_of(document.cascade),
        learning=learning_of(reader, document.learning, document.routes),
        roles=roles_of(reader, document.roles, document.task_types),
        callers=_callers(reader, document),
        anonymous_caller=_OPEN_CALLER if document.access == "open" else None,
        session_headers=tuple(header.lower() for header in document.sessions.headers),
        session_fields=fields_of(reader, document.sessions.body_fields),
        agent_headers=tuple(header.lower() for header in document.sessions.agent_headers),
        parent_headers=tuple(header.lower() for header in document.sessions.parent_headers),
        root_headers=tuple(header.lower() for header in document.sessions.root_headers),
        user_headers=tuple(header.lower() for header in document.users.headers),
        webhook=_webhook(reader, document.notify.webhook),
    )


def _key_caps(reader: ConfigReader, document: schema.RoutingConfig, caps: SessionCaps) -> dict[str, SessionCaps]:
    """Per key, what its sessions may take, where that is less than others'."""
    found = {}
    for place, key in enumerate(document.keys):
        if key.caps != schema.SessionTreeCapsConfig():
            found[key.id] = tightest_caps(caps, caps_of(reader, key.caps, None, ("keys", place)))
    return found


def _callers(reader: ConfigReader, document: schema.RoutingConfig) -> dict[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    orgs: dict[str, str] = {}
    if document.access == "keys" and not document.keys:
        reader.complain(("keys",), "no keys are defined, so nobody could call; add keys, or set 'access: open'")
    for number, key in enumerate(document.keys):
        if orgs.setdefault(key.team, key.org) != key.org:
            reader.complain(
                ("keys", number), f"team '{key.team}' belongs to '{orgs[key.team]}' above; a team has one organisation"
            )
        secret = reader.secret(key.secret, ("keys", number, "secret"))
        if any(caller.key == key.id for caller in callers.values()):
            reader.complain(("keys", number, "id"), f"key id '{key.id}' is given twice; ids are unique")
        if secret is None:
            continue
        digest = hashlib.sha256(secret.encode()).digest()
        if digest in callers:
            reader.complain(
                ("keys", number, "secret"), f"the same secret as key '{callers[digest].key}'; secrets differ"
            )
        callers[digest] = Caller(key=key.id, team=key.team, org=key.org)
    return callers


def _routes(
    reader: ConfigReader, document: schema.RoutingConfig, deployments: Mapping[str, catalog.Deployment]
) -> dict[str, catalog.Route]:
    routes = {}
    for name, doc in document.routes.items():
        for number, candidate in enumerate(doc.candidates):
            if candidate in doc.candidates[:number]:
                reader.complain(("routes", name, "candidates", number), f"'{candidate}' is listed twice")
        candidates = tuple(deployments[candidate] for candidate in doc.candidates if candidate in deployments)
        if candidates:
            routes[name] = catalog.Route(
                name=name,
                candidates=candidates,
                is_auto=doc.auto,
                # What serves only work that can wait is no measure for the rest.
                reference=max(candidates, key=lambda one: (not one.is_batch, one.tier)),
                context_tokens_max=max(deployment.context_tokens_max for deployment in candidates),
            )
    return routes


def _webhook(reader: ConfigReader, doc: schema.WebhookConfig | None) -> Webhook | None:
    if doc is None:
        return None
    secret = reader.secret(doc.secret, ("notify", "webhook", "secret")) if doc.secret is not None else None
    return Webhook(url=doc.url, secret=secret)


def _tier_policy(reader: ConfigReader, document: schema.RoutingConfig) -> catalog.RoutingPolicy:
    tiers, (small, medium) = document.tiers, _TIER_CEILINGS_DEFAULT[document.classifier]
    if tiers.small is not None:
        small = float(tiers.small.max_complexity)
        medium = max(small, medium)
    if tiers.medium is not None:
        medium = float(tiers.medium.max_complexity)
        small = min(small, medium) if tiers.small is None else small
    if small > medium:
        reader.complain(("tiers", "small", "max_complexity"), "the small tier's ceiling is above the medium tier's")
    return catalog.RoutingPolicy(
        tier_ceilings={
            catalog.Tier.small: small,
            catalog.Tier.medium: medium,
            catalog.Tier.frontier: 1.0,
        },
        max_retries=document.retries.same_deployment,
    )


def _quoted(value: Any) -> str:
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field_names() -> set[str]:
    models = [model for model in vars(schema).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    return {name for model in models for name in model.model_fields}
