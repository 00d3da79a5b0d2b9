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
from ..values.budget import SessionCaps, tighter
from ..values.errors import ConfigError
from ..values.request import Caller
from ..values.snapshot import Webhook, World
from . import schema
from .budgets import budgets as budgets_of
from .budgets import caps as caps_of
from .deployments import changes as changes_of
from .deployments import deployments as deployments_of
from .energy import feeds as feeds_of
from .energy import green as green_of
from .quality import cascade as cascade_of
from .quality import learning as learning_of
from .quality import quality as quality_of
from .quality import roles as roles_of
from .reader import Reader, meant
from .sessions import fields as fields_of
from .sessions import loops as loops_of
from .yaml_tree import Path, read

# Ceilings of the small and the medium tier where the file has none. Learned: on the public test files 0.25 sends 38 % of the
# prompts to the frontier and keeps 90 % of its quality, 0.20 sends 59 % and keeps 95 % (docs/routing.md). Transparent:
# set by hand, like its weights.
_CEILINGS = {"learned": (0.25, 0.35), "transparent": (0.45, 0.70)}
_OPEN_CALLER = Caller(key="anonymous", team="default")
# Leaving out what does not fit can uncover what then is missing; a few rounds reach the end of it.
_PRUNINGS_MAX = 8


def load(
    path: FilePath, env: Mapping[str, str], *, need_secrets: bool = True, now: float | None = None
) -> tuple[World, list[str]]:
    """Read a file; gives the World at `now` (seconds since the epoch; None: the machine's time) and notes on what works
    but may surprise. Raises ConfigError with all complaints."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}:1:1: cannot be read: {error}"]) from error
    return parse(text, str(path), env, need_secrets=need_secrets, now=now)


def parse(
    text: str, name: str, env: Mapping[str, str], *, need_secrets: bool = True, now: float | None = None
) -> tuple[World, list[str]]:
    """Like `load`, from text."""
    reader = Reader(name=name, tree=read(text), env=env, need_secrets=need_secrets)
    reader.complaints += reader.tree.complaints
    _references(reader)
    document = _document(reader) if reader.tree.data is not None or not reader.complaints else None
    world = _world(reader, document, text, time.time() if now is None else now) if document else None
    if reader.complaints or world is None:
        ordered = sorted(set(reader.complaints))
        raise ConfigError([f"{name}:{line}:{column}: {sentence}" for line, column, sentence in ordered])
    return world, reader.notes


def _document(reader: Reader) -> schema.Document | None:
    """The file in its shape. What does not fit is complained about and left out, so that the rest is checked as well."""
    data = copy.deepcopy(reader.tree.data)
    for attempt in range(_PRUNINGS_MAX):
        try:
            return schema.Document.model_validate(data)
        except ValidationError as error:
            if attempt == 0:
                _explain(reader, error)
            problems = error.errors(include_url=False, include_context=False, include_input=False)
        for problem in sorted(problems, key=lambda one: len(one["loc"]), reverse=True):
            path: Path = tuple(part for part in problem["loc"] if part != "[key]")
            if not path or not isinstance(data, dict):
                return None
            _drop(data, path[:-1] if problem["type"] == "missing" else path)
    return None


def _drop(data: Any, path: Path) -> None:
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


def _explain(reader: Reader, error: ValidationError) -> None:
    """pydantic's errors in our words, at their place in the file."""
    for problem in error.errors(include_url=False, include_context=True):
        path: Path = tuple(part for part in problem["loc"] if part != "[key]")
        last = str(path[-1]) if path else "document"
        kind, context = problem["type"], problem.get("ctx", {})
        if kind == "missing":
            reader.complain(path[:-1], f"'{last}' is missing; add it here")
        elif kind == "extra_forbidden":
            reader.complain(path, f"unknown key '{last}'{meant(last, _field_names())}", at_key=True)
        elif kind == "literal_error":
            reader.complain(path, f"'{last}' must be {context.get('expected')}, not {_shown(problem['input'])}")
        elif kind == "bool_type":
            reader.complain(path, f"'{last}' must be true or false, not {_shown(problem['input'])}")
        elif kind == "string_type":
            reader.complain(path, f"'{last}' must be text, not {_shown(problem['input'])}; put it in quotes")
        elif kind == "string_pattern_mismatch":
            reader.complain(
                path, f"{_shown(problem['input'])} does not fit here; it must match {context.get('pattern')}"
            )
        elif kind in ("model_type", "dict_type"):
            reader.complain(path, f"'{last}' must be a mapping (key: value), not {_shown(problem['input'])}")
        elif kind == "value_error":
            reader.complain(path, f"'{last}' {context.get('error')}, not {_shown(problem['input'])}")
        else:
            reader.complain(path, f"'{last}' is wrong: {problem['msg'][0].lower()}{problem['msg'][1:]}")


def _references(reader: Reader) -> None:
    """Names that point to nothing, looked up in the file as it stands, so that other mistakes do not hide them."""
    providers, deployments = reader.section("providers"), reader.section("deployments")
    for name, doc in deployments.items():
        provider = doc.get("provider") if isinstance(doc, dict) else None
        if isinstance(provider, str) and provider not in providers:
            reader.complain(
                ("deployments", name, "provider"), f"unknown provider '{provider}'{meant(provider, providers)}"
            )
    for name, doc in reader.section("routes").items():
        candidates = doc.get("candidates") if isinstance(doc, dict) else None
        for number, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, str) and candidate not in deployments:
                reader.complain(
                    ("routes", name, "candidates", number),
                    f"unknown deployment '{candidate}'{meant(candidate, deployments)}",
                )


def _world(reader: Reader, document: schema.Document, text: str, now: float) -> World:
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
    return World(
        # A price that has taken effect makes another configuration of the same file.
        generation=hashlib.sha256((text + f"#{passed}" * bool(passed)).encode()).hexdigest()[:12],
        changes_at=next((at for at in changes if at > now), None),
        deployments=deployments,
        routes=_routes(reader, document, deployments),
        task_types=task_types,
        budgets=budgets_of(reader, document, open_caller=_OPEN_CALLER),
        caps=caps,
        key_caps=_key_caps(reader, document, caps),
        loops=loops_of(reader, document.loops, reader.section("routes"), reader.section("task_types")),
        policy=_policy(reader, document),
        green=green_of(reader, document.energy, document.task_types),
        feeds=feeds_of(reader, document),
        quality=quality_of(reader, document.quality, document.task_types),
        classifier=document.classifier,
        cascade=cascade_of(document.cascade),
        learning=learning_of(reader, document.learning, document.routes),
        roles=roles_of(reader, document.roles, document.task_types),
        callers=_callers(reader, document),
        open_caller=_OPEN_CALLER if document.access == "open" else None,
        session_headers=tuple(header.lower() for header in document.sessions.headers),
        session_fields=fields_of(reader, document.sessions.body_fields),
        agent_headers=tuple(header.lower() for header in document.sessions.agent_headers),
        parent_headers=tuple(header.lower() for header in document.sessions.parent_headers),
        root_headers=tuple(header.lower() for header in document.sessions.root_headers),
        user_headers=tuple(header.lower() for header in document.users.headers),
        webhook=_webhook(reader, document.notify.webhook),
    )


def _key_caps(reader: Reader, document: schema.Document, caps: SessionCaps) -> dict[str, SessionCaps]:
    """Per key, what its sessions may take, where that is less than others'."""
    found = {}
    for place, key in enumerate(document.keys):
        if key.caps != schema.Caps():
            found[key.id] = tighter(caps, caps_of(reader, key.caps, None, ("keys", place)))
    return found


def _callers(reader: Reader, document: schema.Document) -> dict[bytes, Caller]:
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
    reader: Reader, document: schema.Document, deployments: Mapping[str, catalog.Deployment]
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
                auto=doc.auto,
                # What serves only work that can wait is no measure for the rest.
                reference=max(candidates, key=lambda one: (not one.batch, one.tier)),
                roomiest_tokens=max(deployment.context_tokens for deployment in candidates),
            )
    return routes


def _webhook(reader: Reader, doc: schema.Webhook | None) -> Webhook | None:
    if doc is None:
        return None
    secret = reader.secret(doc.secret, ("notify", "webhook", "secret")) if doc.secret is not None else None
    return Webhook(url=doc.url, secret=secret)


def _policy(reader: Reader, document: schema.Document) -> catalog.Policy:
    tiers, (small, medium) = document.tiers, _CEILINGS[document.classifier]
    if tiers.small is not None:
        small = float(tiers.small.max_complexity)
        medium = max(small, medium)
    if tiers.medium is not None:
        medium = float(tiers.medium.max_complexity)
        small = min(small, medium) if tiers.small is None else small
    if small > medium:
        reader.complain(("tiers", "small", "max_complexity"), "the small tier's ceiling is above the medium tier's")
    return catalog.Policy(
        tier_ceilings={
            catalog.Tier.small: small,
            catalog.Tier.medium: medium,
            catalog.Tier.frontier: 1.0,
        },
        max_retries=document.retries.same_deployment,
    )


def _shown(value: Any) -> str:
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field_names() -> set[str]:
    models = [model for model in vars(schema).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    return {name for model in models for name in model.model_fields}
