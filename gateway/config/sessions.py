"""How sessions are known and what the loop guard does, from a routing file."""

import re
from collections.abc import Collection
from decimal import Decimal
from itertools import pairwise

from ..dialects.body import SESSION_ID_FIELDS
from ..values.session import LADDER_STEPS, LoopPolicy, LoopRule, LoopThresholds
from . import schema
from .reader import ConfigReader
from .yaml_tree import YamlPath

# `client_metadata.session_id`, `prompt_cache_key uuid`.
_LOOP_SCORE_MAX = 20
_BODY_FIELD = re.compile(r"([A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)?)( uuid)?")


def session_fields_of(reader: ConfigReader, asked: list[str]) -> tuple[tuple[str, bool], ...]:
    """(field, only where it is a UUID) of the body fields that name a session."""
    found = []
    for place, text in enumerate(asked):
        matched = _BODY_FIELD.fullmatch(text)
        if matched is None:
            reader.complain(
                ("sessions", "body_fields", place),
                f"'{text[:80]}' is no field; write a name, or two with a dot between them, like metadata.session_id",
            )
        elif matched[1].partition(".")[0] not in SESSION_ID_FIELDS:
            reader.complain(
                ("sessions", "body_fields", place),
                f"'{matched[1]}' is not looked at; one of {', '.join(SESSION_ID_FIELDS)} is meant",
            )
        else:
            found.append((matched[1], matched[2] is not None))
    return tuple(found)


def loop_policy_of(
    reader: ConfigReader, doc: schema.LoopGuardConfig, routes: Collection[str], task_types: Collection[str]
) -> LoopPolicy:
    """The loop guard's ladder, and others for some routes and task types."""
    rules = []
    for place, rule in enumerate(doc.rules):
        path: YamlPath = ("loops", "rules", place)
        if rule.route is None and rule.task_type is None:
            reader.complain(
                path, "a rule needs a 'route' or a 'task_type'; for all of them write it into 'loops' itself"
            )
        if rule.route is not None and rule.route not in routes:
            reader.complain((*path, "route"), f"there is no route '{rule.route}'")
        if rule.task_type is not None and rule.task_type not in {*task_types, "other"}:
            reader.complain((*path, "task_type"), f"there is no task type '{rule.task_type}'")
        said = {**doc.model_dump(exclude_unset=True), **rule.model_dump(exclude_unset=True)}
        steps = schema.LoopLadderConfig.model_construct(
            **{name: said[name] for name in schema.LoopLadderConfig.model_fields if name in said}
        )
        rules.append(LoopRule(route=rule.route, task_type=rule.task_type, thresholds=_loop_limits(reader, steps, path)))
    return LoopPolicy(
        default=_loop_limits(reader, doc, ("loops",)), rules=tuple(rules), approval_link=doc.approval_links
    )


def _loop_limits(reader: ConfigReader, doc: schema.LoopLadderConfig, path: YamlPath) -> LoopThresholds:
    scores = {step: getattr(doc, f"{step}_at") for step in LADDER_STEPS}
    chosen = [
        (step, score) for step, score in scores.items() if score is not None and f"{step}_at" in doc.model_fields_set
    ]
    for (lower, score), (higher, above) in pairwise(chosen):
        if score > above:
            reader.complain((*path, f"{lower}_at"), f"'{lower}_at' is above '{higher}_at' ({above}); it must not be")
    floor = Decimal(0)
    for step in LADDER_STEPS:
        score = scores[step]
        if f"{step}_at" in doc.model_fields_set:
            floor = score + 1 if score is not None else floor
        elif score is not None:
            # The steps keep their order: what nobody asked for comes after what somebody did.
            scores[step] = min(max(score, floor), Decimal(_LOOP_SCORE_MAX))
    for step, score in scores.items():
        # What nobody asked for gives way to what somebody did.
        later = [above for other, above in chosen if LADDER_STEPS.index(other) > LADDER_STEPS.index(step)]
        if f"{step}_at" not in doc.model_fields_set and score is not None and later and score >= min(later):
            scores[step] = None
    return LoopThresholds(
        **{step: float(score) if score is not None else None for step, score in scores.items()},
        enforce=doc.mode == "enforce",
        holdout=float(doc.holdout),
        move=doc.tier_move,
        stop_mode=doc.stop_mode,
        hold_seconds=float(doc.hold_seconds),
        statuses={word.lower(): status for word, status in doc.statuses.items()},
    )
