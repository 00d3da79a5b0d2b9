"""routing.yaml -> Snapshot, or every problem at once as `file:line:column: what is wrong, what would be right`."""

import copy
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path as FilePath
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..values import catalog
from ..values.budget import SessionCaps, tightest_caps
from ..values.errors import ConfigError
from ..values.request import Caller
from ..values.service_tiers import NO_TIER_POLICY, TierPolicy
from ..values.snapshot import Snapshot, Webhook
from . import schema
from .base_urls import base_url_mistake
from .budgets import budgets_of, key_caps_of, session_caps_of
from .deployments import deployments_of
from .energy import energy_policy_of, feeds_of
from .messages import quoted, requirement
from .prices import price_changes_at
from .quality import cascade_of, learning_of, quality_policy_of, roles_of
from .reader import ConfigReader, WeakSecrets, check_name, did_you_mean
from .redaction import without_secrets
from .sessions import loop_policy_of, session_fields_of
from .unknown_costs import check_unknown_costs
from .yaml_tree import YamlPath, parse_yaml

# Default ceilings of the small and the medium tier by classifier. Learned: on the public test files 0.25 sends 38 % of
# the prompts to the frontier and keeps 90 % of its quality, 0.20 sends 59 % and keeps 95 % (docs/routing.md).
# Transparent: set by hand, like its weights.
_TIER_CEILINGS_DEFAULT = {"learned": (0.25, 0.35), "transparent": (0.45, 0.70)}
_OPEN_CALLER = Caller(key="anonymous", team="default")
# Removing an invalid value can make a required key missing, one level up in each round.
_VALIDATION_ROUNDS_MAX = 8
# Name of no environment variable.
_PLACEHOLDER_ENV = "\0"
# Section and key since renamed -> its name now.
_RENAMED: dict[tuple[type[BaseModel], str], str] = {
    (schema.RoutingConfig, "loops"): "loop_guard",
    (schema.RoutingConfig, "users"): "end_users",
    (schema.SessionsConfig, "each"): "caps_per_session",
    (schema.BudgetConfig, "fail"): "on_store_failure",
    (schema.CascadeConfig, "escalates"): "escalation_share_prior",
    (schema.EnergyPolicyConfig, "greenest_within_ms"): "lowest_carbon_within_ms",
}


def load(
    path: FilePath,
    env: Mapping[str, str],
    *,
    need_secrets: bool = True,
    weak_secrets: WeakSecrets = "ignored",
    is_strict: bool = False,
    now: float | None = None,
) -> tuple[Snapshot, list[str]]:
    """Read a file: the Snapshot at `now`, and notes on what works but may surprise.

    now: seconds since the epoch; None for the machine's time
    need_secrets: whether a missing secret is a problem, or only a note
    weak_secrets: whether a secret that can be guessed is a problem, a note, or ignored
    is_strict: whether a deployment that a budget would always refuse is a problem, or only a note
    Raises ConfigError with all problems.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError([f"{path}:1:1: cannot read file: {reason}"]) from error
    return parse(
        text,
        str(path),
        env,
        need_secrets=need_secrets,
        weak_secrets=weak_secrets,
        is_strict=is_strict,
        now=now,
    )


def parse(
    text: str,
    name: str,
    env: Mapping[str, str],
    *,
    need_secrets: bool = True,
    weak_secrets: WeakSecrets = "ignored",
    is_strict: bool = False,
    now: float | None = None,
) -> tuple[Snapshot, list[str]]:
    """Like `load`, from text."""
    reader = ConfigReader(
        name=name,
        tree=parse_yaml(text),
        env=env,
        need_secrets=need_secrets,
        weak_secrets=weak_secrets,
        is_strict=is_strict,
    )
    reader.problems += [(line, column, without_secrets(message)) for line, column, message in reader.tree.problems]
    if reader.tree.data is None and not reader.problems:
        reader.add_problem((), "file is empty; it must be a mapping (key: value)")
    _check_references(reader)
    _check_base_urls(reader)
    _check_keys(reader)
    document = _validate(reader) if reader.tree.data is not None or not reader.problems else None
    snapshot = _snapshot(reader, document, text, time.time() if now is None else now) if document else None
    if reader.problems or snapshot is None:
        problems = sorted(set(reader.problems))
        raise ConfigError([f"{name}:{line}:{column}: {message}" for line, column, message in problems])
    return snapshot, reader.notes


def _validate(reader: ConfigReader) -> schema.RoutingConfig | None:
    """Validate the file; invalid parts become problems and are removed, so that the rest is checked as well."""
    data = copy.deepcopy(reader.tree.data)
    for attempt in range(_VALIDATION_ROUNDS_MAX):
        try:
            return schema.RoutingConfig.model_validate(data)
        except ValidationError as error:
            if attempt == 0:
                _add_problems(reader, error)
            problems = error.errors(include_url=False, include_input=False)
        # Literal secrets first: a removal moves the items behind it.
        for problem in sorted(problems, key=lambda item: (not _is_literal_secret(item), -len(item["loc"]))):
            path: YamlPath = tuple(part for part in problem["loc"] if part != "[key]")
            if not path or not isinstance(data, dict):
                return None
            if _is_literal_secret(problem):
                # A reference in its place: without a secret the whole key would be removed, and its team unknown.
                reader.placeholder_env = _PLACEHOLDER_ENV
                _parent(data, path)[path[-1]] = {"env": _PLACEHOLDER_ENV}
                continue
            _remove(reader, data, path[:-1] if problem["type"] == "missing" else path)
    return None


def _is_literal_secret(problem: Any) -> bool:
    class_name: str | None = problem.get("ctx", {}).get("class_name")
    return bool(problem["type"] == "model_type") and class_name == schema.SecretRefConfig.__name__


def _parent(data: Any, path: YamlPath) -> Any:
    """The mapping or list that holds the value at `path`; None where there is none."""
    for part in path[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _remove(reader: ConfigReader, data: Any, path: YamlPath) -> None:
    """Remove the value at one path of the document."""
    parent = _parent(data, path)
    if path and isinstance(parent, dict):
        parent.pop(path[-1], None)
    elif path and isinstance(parent, list) and isinstance(path[-1], int) and path[-1] < len(parent):
        del parent[path[-1]]
        reader.removed_items.append((path[:-1], path[-1]))


# Keys whose value, or part of it, may be a secret written in the wrong place: problems do not quote it.
_SECRET_KEYS = frozenset(
    {
        "access", "api_key", "base_url", "dcgm_url", "env", "feeds", "file", "keys", "metrics_url", "options", "secret",
        "secrets", "webhook",
    }
)  # fmt: skip


def _add_problems(reader: ConfigReader, error: ValidationError) -> None:
    """Pydantic's errors as problems at their place in the file."""
    for item in error.errors(include_url=False, include_context=True):
        path: YamlPath = tuple(part for part in item["loc"] if part != "[key]")
        last = _label(path)
        kind = item["type"]
        if kind == "missing":
            reader.add_problem(path[:-1], f"required key '{last}' is missing; add it here")
        elif kind == "extra_forbidden":
            reader.add_problem(path, _unknown_key(last, path), at_key=True)
        elif _is_literal_secret(item):
            # The value may be a secret, so the message does not show it.
            reader.add_problem(path, f"'{last}' must be {{env: NAME}} or {{file: path}}, not the secret itself")
        elif item["loc"][-1:] == ("[key]",):
            reader.add_problem(path, f"name '{last}' {_requirement(item)}", at_key=True)
        elif _SECRET_KEYS.intersection(map(str, path)):
            reader.add_problem(path, f"'{last}' {_requirement(item)}")
        else:
            # A text in place of a mapping may be the secret that belongs into it.
            hidden = kind in ("model_type", "dict_type") and isinstance(item["input"], str)
            found = "" if hidden else f", not {quoted(item['input'])}"
            reader.add_problem(path, f"'{last}' {_requirement(item)}{found}")


def _label(path: YamlPath) -> str:
    """The key as messages name it; the item of a list with its index, like `notify[1]`."""
    if len(path) > 1 and isinstance(path[-1], int):
        return f"{path[-2]}[{path[-1]}]"
    return str(path[-1]) if path else "document"


def _unknown_key(key: str, path: YamlPath) -> str:
    hint = _key_hint(key, path)
    if not hint and _section_at(path[:-1]) is schema.SecretRefConfig:
        # Likely the secret itself, in braces.
        return "unknown key; a secret must be {env: NAME} or {file: path}"
    return f"unknown key '{key}'{hint}"


def _key_hint(key: str, path: YamlPath) -> str:
    """The new name of a renamed key, or the closest key of its section; empty where there is neither."""
    section = _section_at(path[:-1])
    if section is None:
        return ""
    renamed = next((new for (model, old), new in _RENAMED.items() if old == key and issubclass(section, model)), None)
    return f"; renamed to '{renamed}'" if renamed else did_you_mean(key, section.model_fields)


def _section_at(path: YamlPath) -> type[BaseModel] | None:
    """The class of the section at a path; None where the schema has none."""
    kind: Any = schema.RoutingConfig
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field is not None else None
        else:
            # The values of a dict, or the items of a list.
            kind = (get_args(kind) or (None,))[-1]
        while get_origin(kind) in (Annotated, UnionType, Union):
            kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _requirement(item: Any) -> str:
    """What a value should be, as the end of a sentence that begins with its key."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return f"must be {schema.PATTERN_MEANINGS[context['pattern']]}"
    if kind == "value_error":
        return str(context["error"])
    words = {
        "literal_error": f"must be {context.get('expected')}",
        "bool_type": "must be true or false",
        "string_type": "must be text in quotes",
        "model_type": "must be a mapping (key: value)",
        "dict_type": "must be a mapping (key: value)",
    }
    return words.get(kind) or requirement(item["msg"])


def _check_references(reader: ConfigReader) -> None:
    """Names of missing providers and deployments, looked up in the raw file, so that other mistakes do not hide them."""
    providers, deployments = reader.raw_section("providers"), reader.raw_section("deployments")
    for name, doc in deployments.items():
        provider = doc.get("provider") if isinstance(doc, dict) else None
        if isinstance(provider, str):
            check_name(reader, "provider", provider, providers, ("deployments", name, "provider"))
    for name, doc in reader.raw_section("routes").items():
        candidates = doc.get("candidates") if isinstance(doc, dict) else None
        for index, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, str):
                check_name(reader, "deployment", candidate, deployments, ("routes", name, "candidates", index))


def _check_keys(reader: ConfigReader) -> None:
    """Ids and secrets of keys that occur twice, and short secrets: in the raw file, so that nothing hides them.

    Two references to one variable or file are the same secret, even where its value is unknown.
    """
    items = reader.tree.data.get("keys") if isinstance(reader.tree.data, dict) else None
    ids: set[str] = set()
    key_by_secret: dict[tuple[str, str], str] = {}
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict):
            continue
        path: YamlPath = ("keys", index, "secret")
        key_id = item["id"] if isinstance(item.get("id"), str) else f"keys[{index}]"
        if key_id in ids:
            reader.add_problem(("keys", index, "id"), f"key id '{key_id}' is given twice; ids must be unique")
        ids.add(key_id)
        identities = _secret_identities(reader, item.get("secret"))
        first = next((key_by_secret[pair] for pair in identities.items() if pair in key_by_secret), None)
        if first is not None:
            reader.add_problem(path, f"secret is the same as that of key '{first}'; secrets must be unique")
        for pair in identities.items():
            key_by_secret.setdefault(pair, key_id)
        if isinstance(item.get("secret"), dict) and "value" in identities:
            reader.check_secret(identities["value"], path)


def _secret_identities(reader: ConfigReader, raw: Any) -> dict[str, str]:
    """What identifies a secret of the raw file: its value, and the variable or file that holds it."""
    if isinstance(raw, str):
        return {"value": raw.strip()} if raw.strip() else {}
    if not isinstance(raw, dict):
        return {}
    names = {kind: raw[kind] for kind in ("env", "file") if isinstance(raw.get(kind), str)}
    value = reader.secret_value(env=names.get("env"), file=names.get("file")) if len(names) == 1 else None
    return names | ({"value": value} if value is not None else {})


def _check_base_urls(reader: ConfigReader) -> None:
    """Base URLs of every provider, used or not, read from the raw file like references."""
    for name, doc in reader.raw_section("providers").items():
        url = doc.get("base_url") if isinstance(doc, dict) else None
        if isinstance(url, str) and (mistake := base_url_mistake(url, str(doc.get("dialect", "openai")))):
            reader.add_problem(("providers", name, "base_url"), mistake)


def _snapshot(reader: ConfigReader, document: schema.RoutingConfig, text: str, now: float) -> Snapshot:
    deployments = deployments_of(reader, document, now)
    change_times = price_changes_at(document)
    changes_passed = sum(1 for time_at in change_times if time_at <= now)
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
        reader.add_problem(("quality", "keep"), "'keep' needs the learned classifier; remove 'classifier: transparent'")
    caps = session_caps_of(reader, document.sessions)
    key_caps = _key_caps(reader, document, caps)
    routes = _routes(reader, document, deployments)
    budgets = budgets_of(reader, document, open_caller=_OPEN_CALLER)
    check_unknown_costs(reader, deployments, routes, budgets, (caps, *key_caps.values()))
    return Snapshot(
        # A price change that took effect makes another configuration of the same file.
        generation=hashlib.sha256((text + f"#{changes_passed}" * bool(changes_passed)).encode()).hexdigest()[:12],
        next_price_change_at=next((time_at for time_at in change_times if time_at > now), None),
        deployments=deployments,
        routes=routes,
        task_types=task_types,
        budgets=budgets,
        default_caps=caps,
        key_caps=key_caps,
        key_tier_policies={
            key.id: policy for key in document.keys if (policy := tier_policy_of(key)) is not NO_TIER_POLICY
        },
        loop_policy=loop_policy_of(
            reader, document.loop_guard, reader.raw_section("routes"), reader.raw_section("task_types")
        ),
        routing_policy=_tier_policy(reader, document),
        energy_policy=energy_policy_of(reader, document.energy, document.task_types),
        grid_feeds=feeds_of(reader, document),
        quality_policy=quality_policy_of(reader, document.quality, document.task_types),
        classifier=document.classifier,
        cascade=cascade_of(document.cascade),
        learning=learning_of(reader, document.learning, document.routes),
        roles=roles_of(reader, document.roles, document.task_types),
        callers=_callers(reader, document),
        anonymous_caller=_OPEN_CALLER if document.access == "open" else None,
        session_headers=tuple(header.lower() for header in document.sessions.headers),
        session_fields=session_fields_of(reader, document.sessions.body_fields),
        agent_headers=tuple(header.lower() for header in document.sessions.agent_headers),
        parent_headers=tuple(header.lower() for header in document.sessions.parent_headers),
        root_headers=tuple(header.lower() for header in document.sessions.root_headers),
        user_headers=tuple(header.lower() for header in document.end_users.headers),
        webhook=_webhook(reader, document.notify.webhook),
    )


def _key_caps(reader: ConfigReader, document: schema.RoutingConfig, caps: SessionCaps) -> dict[str, SessionCaps]:
    """Session caps by key, for keys with caps of their own."""
    caps_by_key = {}
    for index, key in enumerate(document.keys):
        if key.caps != schema.SessionTreeCapsConfig():
            key_caps = key_caps_of(reader, document.sessions, key.caps, ("keys", index, "caps"))
            caps_by_key[key.id] = tightest_caps(caps, key_caps)
    return caps_by_key


def _callers(reader: ConfigReader, document: schema.RoutingConfig) -> dict[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    orgs: dict[str, str] = {}
    if document.access == "keys" and not document.keys and not reader.tree.data.get("keys"):
        reader.add_problem(("keys",), "'keys' is empty, so that no caller has access; add keys, or set 'access: open'")
    for index, key in enumerate(document.keys):
        if orgs.setdefault(key.team, key.org) != key.org:
            reader.add_problem(
                ("keys", index),
                f"team '{key.team}' belongs to organization '{orgs[key.team]}' above; a team must have one organization",
            )
        secret = reader.secret(key.secret, ("keys", index, "secret"))
        if secret is not None:
            callers[hashlib.sha256(secret.encode()).digest()] = Caller(key=key.id, team=key.team, org=key.org)
    return callers


def _routes(
    reader: ConfigReader, document: schema.RoutingConfig, deployments: Mapping[str, catalog.Deployment]
) -> dict[str, catalog.Route]:
    routes = {}
    for name, doc in document.routes.items():
        for index, candidate in enumerate(doc.candidates):
            if candidate in doc.candidates[:index]:
                reader.add_problem(
                    ("routes", name, "candidates", index), f"candidate '{candidate}' is listed twice; keep one of them"
                )
        candidates = tuple(deployments[candidate] for candidate in doc.candidates if candidate in deployments)
        if candidates:
            routes[name] = catalog.Route(
                name=name,
                candidates=candidates,
                is_auto=doc.auto,
                # Batch deployments serve deferrable requests only: no reference for the others.
                reference=max(candidates, key=lambda candidate: (not candidate.is_batch, candidate.tier)),
                context_tokens_max=max(deployment.context_tokens_max for deployment in candidates),
                tier_policy=tier_policy_of(doc),
            )
    return routes


def tier_policy_of(doc: schema.RouteConfig | schema.KeyConfig) -> TierPolicy:
    """What a route or a key allows of service tiers and regions."""
    if not doc.service_tiers and doc.inference_geo is None:
        return NO_TIER_POLICY
    return TierPolicy(actions=dict(doc.service_tiers), inference_geo=doc.inference_geo or "")


def _webhook(reader: ConfigReader, doc: schema.WebhookConfig | None) -> Webhook | None:
    if doc is None:
        return None
    path: YamlPath = ("notify", "webhook", "secret")
    secret = reader.secret(doc.secret, path) if doc.secret is not None else None
    if secret is not None:
        reader.check_secret(secret, path)
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
        reader.add_problem(
            ("tiers", "small", "max_complexity"),
            f"'max_complexity' of tier small is above that of medium ({medium:g}); it must not be",
        )
    return catalog.RoutingPolicy(
        tier_ceilings={
            catalog.Tier.small: small,
            catalog.Tier.medium: medium,
            catalog.Tier.frontier: 1.0,
        },
        max_retries=document.retries.same_deployment,
    )
