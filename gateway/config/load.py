"""routing.yaml -> World, or every complaint at once as `file:line:column: what is wrong, what would be right`."""

import copy
import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from ..carbon import energy as energy_models
from ..carbon import intensity
from ..errors import ConfigError
from ..feeds import intensity_tables, prices_litellm
from ..providers import PROVIDERS
from ..values import catalog
from ..values.request import Caller
from ..values.units import MILLIJOULES_PER_WH, usd_to_nusd
from ..values.world import World
from . import schema
from .yaml_tree import Path, Tree, read

# Where neither the file nor the price list says: common to current hosted models, and small enough to hold.
_CONTEXT_TOKENS, _OUTPUT_TOKENS = 128_000, 16_384
_OPEN_CALLER = Caller(key="anonymous", team="default")
_KG_PER_TONNE = 1000
# PUE bounds around the operator's own value: half a point of measurement error each way.
_PUE_ERROR = 0.02
# Leaving out what does not fit can uncover what then is missing; a few rounds reach the end of it.
_PRUNINGS_MAX = 8


@dataclass(slots=True)
class _Reader:
    """One file being read: its tree, and what was found wrong with it so far."""

    name: str
    tree: Tree
    env: Mapping[str, str]
    need_secrets: bool
    complaints: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def complain(self, path: Path, sentence: str, *, at_key: bool = False) -> None:
        """Remember a mistake at `path`."""
        place = self.tree.keys.get(path) if at_key else None
        self.complaints.append((*(place or self.tree.place(path)), sentence))

    def section(self, name: str) -> dict[str, Any]:
        """A section of the file as it stands, right or wrong in its details."""
        found = self.tree.data.get(name) if isinstance(self.tree.data, dict) else None
        return found if isinstance(found, dict) else {}

    def note(self, path: Path, sentence: str) -> None:
        """Remember something worth saying that is no mistake."""
        line, column = self.tree.place(path)
        self.notes.append(f"{self.name}:{line}:{column}: {sentence}")

    def secret(self, ref: schema.SecretRef, path: Path) -> str | None:
        """What a reference points to. Never part of a message."""
        if (ref.env is None) == (ref.file is None):
            self.complain(path, "give exactly one of {env: NAME} or {file: path}")
            return None
        value = self.env.get(ref.env) if ref.env is not None else _file(ref.file or "")
        if value:
            return value
        what = (
            f"environment variable {ref.env} is not set" if ref.env else f"file {ref.file} cannot be read or is empty"
        )
        if self.need_secrets:
            self.complain(path, f"{what}; the secret it should hold is needed to start")
        else:
            self.note(path, what)
        return None


def load(path: FilePath, env: Mapping[str, str], *, need_secrets: bool = True) -> tuple[World, list[str]]:
    """Read a file; gives the World and notes on what works but may surprise. Raises ConfigError with all complaints."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}:1:1: cannot be read: {error}"]) from error
    return parse(text, str(path), env, need_secrets=need_secrets)


def parse(text: str, name: str, env: Mapping[str, str], *, need_secrets: bool = True) -> tuple[World, list[str]]:
    """Like `load`, from text."""
    reader = _Reader(name=name, tree=read(text), env=env, need_secrets=need_secrets)
    reader.complaints += reader.tree.complaints
    _references(reader)
    document = _document(reader) if reader.tree.data is not None or not reader.complaints else None
    world = _world(reader, document, hashlib.sha256(text.encode()).hexdigest()[:12]) if document else None
    if reader.complaints or world is None:
        ordered = sorted(set(reader.complaints))
        raise ConfigError([f"{name}:{line}:{column}: {sentence}" for line, column, sentence in ordered])
    return world, reader.notes


def _document(reader: _Reader) -> schema.Document | None:
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


def _explain(reader: _Reader, error: ValidationError) -> None:
    """pydantic's errors in our words, at their place in the file."""
    for problem in error.errors(include_url=False, include_context=True):
        path: Path = tuple(part for part in problem["loc"] if part != "[key]")
        last = str(path[-1]) if path else "document"
        kind, context = problem["type"], problem.get("ctx", {})
        if kind == "missing":
            reader.complain(path[:-1], f"'{last}' is missing; add it here")
        elif kind == "extra_forbidden":
            reader.complain(path, f"unknown key '{last}'{_meant(last, _field_names())}", at_key=True)
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


def _references(reader: _Reader) -> None:
    """Names that point to nothing, looked up in the file as it stands, so that other mistakes do not hide them."""
    providers, deployments = reader.section("providers"), reader.section("deployments")
    for name, doc in deployments.items():
        provider = doc.get("provider") if isinstance(doc, dict) else None
        if isinstance(provider, str) and provider not in providers:
            reader.complain(
                ("deployments", name, "provider"), f"unknown provider '{provider}'{_meant(provider, providers)}"
            )
    for name, doc in reader.section("routes").items():
        candidates = doc.get("candidates") if isinstance(doc, dict) else None
        for number, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, str) and candidate not in deployments:
                reader.complain(
                    ("routes", name, "candidates", number),
                    f"unknown deployment '{candidate}'{_meant(candidate, deployments)}",
                )


def _world(reader: _Reader, document: schema.Document, generation: str) -> World:
    deployments = _deployments(reader, document)
    task_types = tuple(
        catalog.TaskType(
            name=name,
            words=frozenset(word.lower() for word in task.words),
            tools=frozenset(task.tools),
            complexity_shift=float(task.complexity_shift),
        )
        for name, task in document.task_types.items()
    )
    loops = document.loops
    if loops.warn_at > loops.stop_at:
        reader.complain(("loops", "warn_at"), f"'warn_at' is above 'stop_at' ({loops.stop_at}); it must not be")
    return World(
        generation=generation,
        deployments=deployments,
        routes=_routes(reader, document, deployments),
        task_types=task_types,
        budgets=_budgets(reader, document),
        caps=_caps(reader, document.sessions.caps),
        loops=catalog.LoopLimits(warn=loops.warn_at, stop=loops.stop_at, enforce=loops.mode == "enforce"),
        policy=_policy(reader, document),
        callers=_callers(reader, document),
        open_caller=_OPEN_CALLER if document.access == "open" else None,
        session_headers=tuple(header.lower() for header in document.sessions.headers),
    )


def _callers(reader: _Reader, document: schema.Document) -> dict[bytes, Caller]:
    callers: dict[bytes, Caller] = {}
    if document.access == "keys" and not document.keys:
        reader.complain(("keys",), "no keys are defined, so nobody could call; add keys, or set 'access: open'")
    for number, key in enumerate(document.keys):
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
        callers[digest] = Caller(key=key.id, team=key.team)
    return callers


def _deployments(reader: _Reader, document: schema.Document) -> dict[str, catalog.Deployment]:
    listed = prices_litellm.load()
    tables = intensity_tables.load()
    secrets = {
        name: reader.secret(provider.api_key, ("providers", name, "api_key")) if provider.api_key else None
        for name, provider in document.providers.items()
    }
    options = {
        name: {
            **provider.options,
            **{key: reader.secret(ref, ("providers", name, "secrets", key)) for key, ref in provider.secrets.items()},
        }
        for name, provider in document.providers.items()
    }
    built = {}
    for name, doc in document.deployments.items():
        path: Path = ("deployments", name)
        provider = document.providers.get(doc.provider)
        if provider is None:
            continue
        known = _known(reader, doc, path, listed)
        output_tokens = doc.output_tokens or (known.output_tokens if known else None)
        sheet = _sheet(reader, doc.price, (*path, "price")) if doc.price else known.sheet if known else None
        if sheet is None:
            reader.note(
                path,
                f"deployment '{name}' has no known price: its calls count as unpriced, and no budget in usd admits it",
            )
        if doc.energy is None:
            reader.note(
                path,
                f"deployment '{name}' has no energy profile: its footprint counts as unknown, and no budget in wh admits it",
            )
        built[name] = catalog.Deployment(
            name=name,
            provider=doc.provider,
            dialect=provider.dialect,
            base_url=_base_url(reader, doc.provider, provider),
            secret=secrets[doc.provider],
            model=doc.model,
            tier=catalog.Tier[doc.tier],
            sheet=sheet,
            energy=energy_models.model_of(_profile(reader, doc.energy, path)) if doc.energy else None,
            intensity=_intensity(reader, doc, path, tables),
            context_tokens=doc.context_tokens or (known and known.context_tokens) or _CONTEXT_TOKENS,
            output_tokens=output_tokens or _OUTPUT_TOKENS,
            output_tokens_known=output_tokens is not None,
            vision=_first(doc.vision, known.vision if known else None),
            tools=_first(doc.tools, known.tools if known else None),
            stream_usage=doc.stream_usage,
            timeouts=catalog.Timeouts(
                connect=float(doc.timeouts.connect),
                first_byte=float(doc.timeouts.first_byte),
                idle=float(doc.timeouts.idle),
                total=float(doc.timeouts.total),
            ),
            speaks=tuple(provider.speaks or PROVIDERS[provider.dialect].SPEAKS),
            learnt=PROVIDERS[provider.dialect].LEARNT if provider.speaks is None else frozenset(),
            reasons=_first(doc.reasoning, known.reasons if known else None, default=False),
            adaptive=_first(doc.adaptive_thinking, known.adaptive if known else None, default=False),
            unit_prices=known.unit_prices if known else {},
            options=options[doc.provider],
        )
    return built


def _base_url(reader: _Reader, name: str, provider: schema.Provider) -> str:
    given = reader.section("providers").get(name)
    if (
        provider.base_url is None
        and provider.dialect != "litellm"
        and not (isinstance(given, dict) and "base_url" in given)
    ):
        reader.complain(("providers", name), "'base_url' is missing; add it here")
    if provider.speaks is not None and provider.dialect != "openai":
        reader.complain(("providers", name, "speaks"), "'speaks' is for dialect 'openai' only; leave it out")
    if (provider.options or provider.secrets) and provider.dialect != "litellm":
        reader.complain(("providers", name), "'options' and 'secrets' are for dialect 'litellm' only; leave them out")
    return (provider.base_url or "").rstrip("/")


def _known(
    reader: _Reader, doc: schema.Deployment, path: Path, listed: Mapping[str, Mapping[str, Any]]
) -> prices_litellm.ListedModel | None:
    known = prices_litellm.listed_model(listed, doc.price_list or doc.model)
    if known is None and doc.price_list is not None:
        reader.complain(
            (*path, "price_list"), f"the price list has no '{doc.price_list}'{_meant(doc.price_list, listed)}"
        )
    return known


def _sheet(reader: _Reader, doc: schema.Price, path: Path) -> catalog.PriceSheet:
    steps = [
        (step.above_input_tokens, _rates(reader, step, (*path, "steps", number)))
        for number, step in enumerate(doc.steps)
    ]
    limits = [above for above, _ in steps]
    if limits != sorted(set(limits)):
        reader.complain((*path, "steps"), "steps must be in ascending order of 'above_input_tokens'")
    return catalog.PriceSheet(base=_rates(reader, doc, path), source="config", steps=tuple(steps))


def _rates(reader: _Reader, doc: schema.Rates, path: Path) -> catalog.Rates:
    given, written = _nusd(reader, doc.input, (*path, "input")), _nusd(reader, doc.output, (*path, "output"))

    def other(name: str, value: Decimal | None, default: int) -> int:
        return default if value is None else _nusd(reader, value, (*path, name))

    stored = other("cache_write", doc.cache_write, given)
    return catalog.Rates(
        input=given,
        output=written,
        cached_input=other("cached_input", doc.cached_input, given),
        cache_write=stored,
        reasoning=other("reasoning", doc.reasoning, written),
        cache_write_long=other("cache_write_long", doc.cache_write_long, stored),
    )


def _profile(reader: _Reader, doc: schema.Energy, path: Path) -> catalog.EnergyProfile:
    total = doc.total_params_b if doc.total_params_b is not None else doc.active_params_b
    if total < doc.active_params_b:
        reader.complain((*path, "energy", "total_params_b"), "'total_params_b' is below 'active_params_b'")
        total = doc.active_params_b
    profile = catalog.EnergyProfile(
        active_params_b=float(doc.active_params_b),
        total_params_b=float(total),
        bytes_per_param=float(doc.bits_per_param) / 8,
        hardware_factor=float(doc.hardware_factor),
        concurrency=float(doc.concurrency) if doc.concurrency is not None else None,
    )
    if doc.pue is None:
        return profile
    pue = float(doc.pue)
    return catalog.EnergyProfile(
        active_params_b=profile.active_params_b,
        total_params_b=profile.total_params_b,
        bytes_per_param=profile.bytes_per_param,
        hardware_factor=profile.hardware_factor,
        concurrency=profile.concurrency,
        pue=(max(1.0, pue - _PUE_ERROR), pue, pue + _PUE_ERROR),
    )


def _intensity(
    reader: _Reader, doc: schema.Deployment, path: Path, tables: Mapping[str, Mapping[str, float]]
) -> catalog.Intensity:
    override = float(doc.grams_co2e_per_kwh) if doc.grams_co2e_per_kwh is not None else None
    found = intensity.resolve(doc.zone, override, tables)
    if doc.zone is not None and found.method == "world":
        zones = [zone for table in tables.values() for zone in table]
        reader.complain(
            (*path, "zone"), f"unknown grid zone '{doc.zone}'{_meant(doc.zone, zones)}; use ISO alpha-3 like USA or FRA"
        )
    return found


def _routes(
    reader: _Reader, document: schema.Document, deployments: Mapping[str, catalog.Deployment]
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
                reference=max(candidates, key=lambda deployment: deployment.tier),
                roomiest_tokens=max(deployment.context_tokens for deployment in candidates),
            )
    return routes


def _budgets(reader: _Reader, document: schema.Document) -> tuple[catalog.Budget, ...]:
    budgets = []
    known = {
        "key": {key.id for key in document.keys} | {_OPEN_CALLER.key},
        "team": {key.team for key in document.keys} | {_OPEN_CALLER.team},
        "task_type": {*reader.section("task_types"), "other"},
    }
    for name, doc in document.budgets.items():
        path: Path = ("budgets", name)
        scope = {dimension: value for dimension, value in doc.scope.model_dump().items() if value is not None}
        for dimension, value in scope.items():
            if value != "*" and value not in known[dimension]:
                reader.complain(
                    (*path, "scope", dimension), f"unknown {dimension} '{value}'{_meant(value, known[dimension])}"
                )
        given = [(measure, value) for measure, value in doc.limit.model_dump().items() if value is not None]
        if len(given) != 1:
            reader.complain((*path, "limit"), "give exactly one of usd, wh or calls")
            continue
        measure, limit = _limit(reader, given[0], (*path, "limit"))
        budgets.append(
            catalog.Budget(name=name, scope=scope, measure=measure, limit=limit, window=catalog.Window[doc.window])
        )
    return tuple(budgets)


def _limit(reader: _Reader, given: tuple[str, Any], path: Path) -> tuple[catalog.Measure, int]:
    unit, value = given
    if unit == "usd":
        return catalog.Measure.nusd, _nusd(reader, value, (*path, unit))
    if unit == "wh":
        return catalog.Measure.millijoules, int(value * MILLIJOULES_PER_WH)
    return catalog.Measure.calls, int(value)


def _caps(reader: _Reader, doc: schema.Caps) -> catalog.SessionCaps:
    return catalog.SessionCaps(
        calls=doc.calls,
        nusd=_nusd(reader, doc.usd, ("sessions", "caps", "usd")) if doc.usd is not None else None,
        seconds=float(doc.minutes) * 60 if doc.minutes is not None else None,
    )


def _policy(reader: _Reader, document: schema.Document) -> catalog.Policy:
    small, medium = document.tiers.small.max_complexity, document.tiers.medium.max_complexity
    if small > medium:
        reader.complain(("tiers", "small", "max_complexity"), "the small tier's ceiling is above the medium tier's")
    rules = document.energy
    return catalog.Policy(
        tier_ceilings={
            catalog.Tier.small: float(small),
            catalog.Tier.medium: float(medium),
            catalog.Tier.frontier: 1.0,
        },
        carbon_nusd_per_kg=_nusd(
            reader, rules.carbon_price_usd_per_tonne / _KG_PER_TONNE, ("energy", "carbon_price_usd_per_tonne")
        ),
        max_request_millijoules=int(rules.max_wh_per_request * MILLIJOULES_PER_WH)
        if rules.max_wh_per_request
        else None,
        max_retries=document.retries.same_deployment,
    )


def _nusd(reader: _Reader, usd: Decimal, path: Path) -> int:
    try:
        return usd_to_nusd(usd)
    except ValueError:
        reader.complain(path, f"{usd} USD is finer than a nano-dollar; use at most nine decimals")
        return 0


def _first(*values: bool | None, default: bool = True) -> bool:
    """The first that is given, else the default: what is not known is not forbidden."""
    return next((value for value in values if value is not None), default)


def _file(path: str) -> str | None:
    try:
        return FilePath(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _shown(value: Any) -> str:
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field_names() -> set[str]:
    models = [model for model in vars(schema).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    return {name for model in models for name in model.model_fields}
