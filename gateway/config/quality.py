"""What a routing file says about quality, learning and roles."""

from collections.abc import Collection, Mapping

from ..values.catalog import Tier
from ..values.quality import OTHER_TASK_TYPE, Cascade, Learning, QualityPolicy, QualityTarget, Role, ShadowSampling
from . import schema
from .reader import ConfigReader, to_nusd
from .yaml_tree import YamlPath


def quality_policy_of(
    reader: ConfigReader, doc: schema.QualityRulesConfig, task_types: Collection[str]
) -> QualityPolicy:
    """The floor or the share by task type."""
    by_task_type: dict[str, QualityTarget] = {}
    for place, rule in enumerate(doc.rules):
        path: YamlPath = ("quality", "rules", place)
        if rule.task_type not in {*task_types, OTHER_TASK_TYPE}:
            reader.complain((*path, "task_type"), f"there is no task type '{rule.task_type}'")
        if rule.task_type in by_task_type:
            reader.complain((*path, "task_type"), f"task type '{rule.task_type}' has a rule above")
        said = {**doc.model_dump(exclude_unset=True, exclude={"rules"}), **rule.model_dump(exclude_unset=True)}
        if rule.frontier_share is not None:
            said.setdefault("keep", None)
            said["keep"] = rule.keep
        elif rule.keep is not None:
            said["frontier_share"] = None
        said.pop("task_type", None)
        by_task_type[rule.task_type] = _quality(
            reader, schema.QualityConfig.model_construct(**said), path, rule.model_fields_set
        )
    return QualityPolicy(default=_quality(reader, doc, ("quality",), doc.model_fields_set), by_task_type=by_task_type)


def _quality(reader: ConfigReader, doc: schema.QualityConfig, path: YamlPath, said: Collection[str]) -> QualityTarget:
    """What is asked; of contradictions those count that are `said` here."""
    if doc.keep is not None and doc.frontier_share is not None:
        reader.complain(
            (*path, "frontier_share"), "'keep' and 'frontier_share' exclude each other: the one follows from the other"
        )
    if "fallback_share" in said and doc.fallback != "share":
        reader.complain((*path, "fallback_share"), "'fallback_share' counts with 'fallback: share' only")
    return QualityTarget(
        keep=float(doc.keep) if doc.keep is not None else None,
        confidence=float(doc.confidence),
        fallback_share=float(doc.fallback_share) if doc.fallback == "share" else None,
        frontier_share=float(doc.frontier_share) if doc.frontier_share is not None else None,
    )


def cascade_of(doc: schema.CascadeConfig) -> Cascade:
    """Whether small answers are looked at, and the next tier asked if they look doubtful."""
    return Cascade(is_enabled=doc.mode == "enforce", escalation_share_prior=float(doc.escalates))


def learning_of(reader: ConfigReader, doc: schema.LearningConfig, routes: Mapping[str, object]) -> Learning:
    """How labels are collected."""
    path: YamlPath = ("learning", "shadow")
    shadow = doc.shadow
    if shadow.share and shadow.judge is None:
        reader.complain(path, "'judge' is missing: name the route that compares the answers")
    if shadow.judge is not None and shadow.judge not in routes:
        reader.complain((*path, "judge"), f"there is no route '{shadow.judge}'")
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
    """The parts that agents play, in the order in which they are tried."""
    found: list[Role] = []
    for place, doc in enumerate(docs):
        path: YamlPath = ("roles", place)
        if any(role.name == doc.name for role in found):
            reader.complain((*path, "name"), f"role '{doc.name}' is given twice")
        if doc.task_type is not None and doc.task_type not in {*task_types, OTHER_TASK_TYPE}:
            reader.complain((*path, "task_type"), f"there is no task type '{doc.task_type}'")
        for at, word in enumerate(doc.words):
            if not word.replace("_", "a").isalnum():
                reader.complain(
                    (*path, "words", at), f"'{word[:60]}' is not one word: texts are split at everything else"
                )
        if not (doc.agents or doc.words or doc.tools or doc.sub_agents):
            reader.note(path, f"role '{doc.name}' is known by the header x-penstock-role alone")
        least, most = _tier(doc.tier_min), _tier(doc.tier_max)
        if least is not None and most is not None and least > most:
            reader.complain((*path, "tier_min"), "'tier_min' is above 'tier_max'")
        found.append(
            Role(
                name=doc.name,
                agents=tuple(doc.agents),
                words=frozenset(word.lower() for word in doc.words),
                tools=frozenset(doc.tools),
                sub_agents=doc.sub_agents,
                task_type=doc.task_type,
                complexity_shift=float(doc.complexity_shift),
                tier_min=least,
                tier_max=most,
            )
        )
    return tuple(found)


def _tier(name: str | None) -> Tier | None:
    return Tier[name] if name is not None else None
