"""The session body fields and the loop guard of a routing file."""

import re
from collections.abc import Collection
from decimal import Decimal
from itertools import pairwise

from ..dialects.body import SESSION_ID_FIELDS
from ..values.session import LADDER_STEPS, LoopPolicy, LoopRule, LoopThresholds
from . import schema
from .reader import ConfigReader, check_name, check_task_type
from .yaml_tree import YamlPath

_LOOP_SCORE_MAX = 20
# Like `client_metadata.session_id` or `prompt_cache_key uuid`.
_BODY_FIELD = re.compile(r"([A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)?)( uuid)?")


def session_fields_of(reader: ConfigReader, fields: list[str]) -> tuple[tuple[str, bool], ...]:
    """(field, whether only a UUID counts) of each body field that names a session."""
    parsed = []
    for index, text in enumerate(fields):
        match = _BODY_FIELD.fullmatch(text)
        if match is None:
            reader.add_problem(
                ("sessions", "body_fields", index),
                f"'{text[:80]}' is not a body field; expected one name or two joined by a dot, like metadata.session_id",
            )
        elif match[1].partition(".")[0] not in SESSION_ID_FIELDS:
            reader.add_problem(
                ("sessions", "body_fields", index),
                f"unsupported body field '{match[1]}'; expected one of {', '.join(SESSION_ID_FIELDS)}",
            )
        else:
            parsed.append((match[1], match[2] is not None))
    return tuple(parsed)


def loop_policy_of(
    reader: ConfigReader, doc: schema.LoopGuardConfig, routes: Collection[str], task_types: Collection[str]
) -> LoopPolicy:
    """The ladder of the loop guard, and its exceptions by route and task type."""
    rules = []
    for index, rule in enumerate(doc.rules):
        path: YamlPath = ("loop_guard", "rules", index)
        if rule.route is None and rule.task_type is None:
            reader.add_problem(
                path, "rule has neither 'route' nor 'task_type'; add one, or set its keys in 'loop_guard' itself"
            )
        if rule.route is not None:
            check_name(reader, "route", rule.route, routes, (*path, "route"))
        if rule.task_type is not None:
            check_task_type(reader, rule.task_type, task_types, (*path, "task_type"))
        merged = {**doc.model_dump(exclude_unset=True), **rule.model_dump(exclude_unset=True)}
        ladder = schema.LoopLadderConfig.model_construct(
            **{name: merged[name] for name in schema.LoopLadderConfig.model_fields if name in merged}
        )
        rules.append(LoopRule(route=rule.route, task_type=rule.task_type, thresholds=_thresholds(reader, ladder, path)))
    return LoopPolicy(
        default=_thresholds(reader, doc, ("loop_guard",)), rules=tuple(rules), approval_link=doc.approval_links
    )


def _thresholds(reader: ConfigReader, doc: schema.LoopLadderConfig, path: YamlPath) -> LoopThresholds:
    scores = {step: getattr(doc, f"{step}_at") for step in LADDER_STEPS}
    given = [
        (step, score) for step, score in scores.items() if score is not None and f"{step}_at" in doc.model_fields_set
    ]
    for (lower, score), (higher, above) in pairwise(given):
        if score > above:
            reader.add_problem(
                (*path, f"{lower}_at"), f"'{lower}_at' ({score}) is above '{higher}_at' ({above}); it must not be"
            )
    floor = Decimal(0)
    for step in LADDER_STEPS:
        score = scores[step]
        if f"{step}_at" in doc.model_fields_set:
            floor = score + 1 if score is not None else floor
        elif score is not None:
            # The steps keep their order: a default moves up behind the steps that the file gives.
            scores[step] = min(max(score, floor), Decimal(_LOOP_SCORE_MAX))
    for step, score in scores.items():
        # A default that is not below the later steps of the file is left out.
        later = [above for other, above in given if LADDER_STEPS.index(other) > LADDER_STEPS.index(step)]
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
