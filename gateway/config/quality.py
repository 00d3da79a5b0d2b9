"""Quality targets, cascade, learning and roles of a routing file."""

from collections.abc import Collection, Mapping

from ..feeds.package_data import is_installed
from ..values.catalog import Tier
from ..values.extras import install_hint
from ..values.quality import Cascade, Learning, QualityPolicy, QualityTarget, Role, ShadowSampling
from . import schema
from .reader import ConfigReader, check_name, check_task_type, to_nusd
from .yaml_tree import YamlPath


def quality_policy_of(
    reader: ConfigReader, doc: schema.QualityRulesConfig, task_types: Collection[str]
) -> QualityPolicy:
    """Quality targets by task type; mistakes become problems."""
    by_task_type: dict[str, QualityTarget] = {}
    for index, rule in enumerate(doc.rules):
        path: YamlPath = ("quality", "rules", index)
        check_task_type(reader, rule.task_type, task_types, (*path, "task_type"))
        if rule.task_type in by_task_type:
            reader.add_problem((*path, "task_type"), f"task type '{rule.task_type}' has a rule above; keep one of them")
        merged = {**doc.model_dump(exclude_unset=True, exclude={"rules"}), **rule.model_dump(exclude_unset=True)}
        if rule.frontier_share is not None:
            merged["keep"] = rule.keep
        elif rule.keep is not None:
            merged["frontier_share"] = None
        merged.pop("task_type", None)
        by_task_type[rule.task_type] = _target(
            reader, schema.QualityConfig.model_construct(**merged), path, rule.model_fields_set
        )
    return QualityPolicy(default=_target(reader, doc, ("quality",), doc.model_fields_set), by_task_type=by_task_type)


def _target(reader: ConfigReader, doc: schema.QualityConfig, path: YamlPath, given: Collection[str]) -> QualityTarget:
    """One target; `given` are the keys that this part of the file has itself."""
    if doc.keep is not None and doc.frontier_share is not None:
        reader.add_problem(
            (*path, "frontier_share"), "'keep' and 'frontier_share' exclude each other; keep one of them"
        )
    if "fallback_share" in given and doc.fallback != "share":
        reader.add_problem(
            (*path, "fallback_share"), "'fallback_share' needs 'fallback: share'; add that, or remove 'fallback_share'"
        )
    return QualityTarget(
        keep=float(doc.keep) if doc.keep is not None else None,
        confidence=float(doc.confidence),
        fallback_share=float(doc.fallback_share) if doc.fallback == "share" else None,
        frontier_share=float(doc.frontier_share) if doc.frontier_share is not None else None,
    )


def cascade_of(doc: schema.CascadeConfig) -> Cascade:
    """Whether doubtful answers escalate to the next tier, and how often at first."""
    return Cascade(is_enabled=doc.mode == "enforce", escalation_share_prior=float(doc.escalation_share_prior))


def learning_of(reader: ConfigReader, doc: schema.LearningConfig, routes: Mapping[str, object]) -> Learning:
    """How quality labels are collected; mistakes become problems."""
    path: YamlPath = ("learning", "shadow")
    shadow = doc.shadow
    if shadow.share and shadow.judge is None:
        reader.add_problem(path, "required key 'judge' is missing; name the route that compares the answers")
    if shadow.share and doc.refit_minutes is not None and not is_installed("numpy"):
        reader.add_problem(
            ("learning", "refit_minutes"), f"fitting quality floors: {install_hint('numpy')}, or set it to null"
        )
    if shadow.judge is not None:
        check_name(reader, "route", shadow.judge, routes, (*path, "judge"))
    return Learning(
        shadow_sampling=ShadowSampling(
            share=float(shadow.share),
            judge=shadow.judge or "",
            nusd_per_day_max=to_nusd(reader, shadow.usd_per_day, (*path, "usd_per_day")),
        ),
        keep_content=doc.keep_content,
        labels_max=doc.labels_max,
        refit_seconds=float(doc.refit_minutes) * 60 if doc.refit_minutes is not None else None,
    )


def roles_of(reader: ConfigReader, docs: list[schema.RoleConfig], task_types: Collection[str]) -> tuple[Role, ...]:
    """The roles of agents, in the order in which they are matched."""
    roles: list[Role] = []
    for index, doc in enumerate(docs):
        path: YamlPath = ("roles", index)
        if any(role.name == doc.name for role in roles):
            reader.add_problem((*path, "name"), f"role '{doc.name}' is given twice; names must be unique")
        if doc.task_type is not None:
            check_task_type(reader, doc.task_type, task_types, (*path, "task_type"))
        for position, word in enumerate(doc.words):
            if not word.replace("_", "a").isalnum():
                reader.add_problem(
                    (*path, "words", position),
                    f"'{word[:60]}' is not a single word of letters, digits and '_'; list each word by itself",
                )
        if not (doc.agents or doc.words or doc.tools or doc.sub_agents):
            reader.add_note(path, f"role '{doc.name}' is selected by the header x-penstock-role only")
        lowest, highest = _tier(doc.tier_min), _tier(doc.tier_max)
        if lowest is not None and highest is not None and lowest > highest:
            reader.add_problem((*path, "tier_min"), f"'tier_min' is above 'tier_max' ({highest.name}); it must not be")
        roles.append(
            Role(
                name=doc.name,
                agents=tuple(doc.agents),
                words=frozenset(word.lower() for word in doc.words),
                tools=frozenset(doc.tools),
                sub_agents=doc.sub_agents,
                task_type=doc.task_type,
                complexity_shift=float(doc.complexity_shift),
                tier_min=lowest,
                tier_max=highest,
            )
        )
    return tuple(roles)


def _tier(name: str | None) -> Tier | None:
    return Tier[name] if name is not None else None
