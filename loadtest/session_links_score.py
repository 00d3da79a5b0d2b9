"""Pairwise precision and recall of inferred sessions against true ones; part of `session_links.py`."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from session_links_agents import LinkedCall

# Table rows in this order; a row without calls is left out.
ROW_TITLES = {
    "": "all",
    "apart": "distinct by opening and first answer",
    "alike": "another job has the same opening and first answer",
    "plain": "plain",
    "again": "plain, another job has the same opening",
    "compacted": "compacted",
    "elided": "old output elided",
    "rewritten": "system prompt rewritten",
    "retried": "calls sent again",
    "diverging": "parallel, answers diverge",
    "forked": "forked",
    "identical": "parallel, identical answers (exchangeable)",
}


def score(calls: list[LinkedCall], opening_digests: Mapping[str, int]) -> list[dict[str, Any]]:
    """The rows of the table: kinds, then files.

    opening_digests: digest of each run's opening and first answer
    """
    labels, alike = _true_session_labels(calls), _runs_with_shared_opening(calls, opening_digests)
    tagged = [_tags(call, call.run.name in alike) for call in calls]
    present = set().union(*tagged)
    tags = [tag for tag in ROW_TITLES if tag in present] + sorted(tag for tag in present if tag.startswith("from "))
    return [_row(tag, calls, labels, [tag in own for own in tagged]) for tag in tags]


def _tags(call: LinkedCall, alike: bool) -> set[str]:
    """The rows that a call counts in."""
    kind = call.run.kind
    opening_tags = set() if kind == "identical" else {"alike"} if alike else {"apart"}
    return {"", kind, f"from {call.run.source}"} | opening_tags | ({"retried"} if call.is_retry else set())


def _runs_with_shared_opening(calls: list[LinkedCall], opening_digests: Mapping[str, int]) -> set[str]:
    """Runs that equal one of another job up to their first answer: lineage cannot distinguish them."""
    group = {call.run.name: call.run.group for call in calls}
    jobs: defaultdict[int, set[str]] = defaultdict(set)
    for run, digest in opening_digests.items():
        jobs[digest].add(group.get(run, run))
    return {run for run, digest in opening_digests.items() if len(jobs[digest]) > 1}


def _row(tag: str, calls: list[LinkedCall], labels: list[str], marked: list[bool]) -> dict[str, Any]:
    sessions = [call.inferred_session for call in calls]
    grouped = list(zip((call.run.group for call in calls), sessions, strict=True))
    across = _marked_pairs(sessions, marked) - _marked_pairs(grouped, marked)
    if tag == "identical":
        right, true, within = _exchangeable_pairs(calls)
    else:
        right = within = _marked_pairs(list(zip(labels, sessions, strict=True)), marked)
        true = _marked_pairs(labels, marked)
    own: defaultdict[str, set[str]] = defaultdict(set)
    for call, label, counts in zip(calls, labels, marked, strict=True):
        if counts:
            own[call.run.group if tag == "identical" else _true_session(call, label)].add(call.inferred_session)
    true_sessions = len({_true_session(call, label) for call, label, m in zip(calls, labels, marked, strict=True) if m})
    return {
        "kind": ROW_TITLES.get(tag, tag),
        "sessions": true_sessions,
        "calls": sum(marked),
        "found_pairs": across + within,
        "right_pairs": right,
        "true_pairs": true,
        "precision": right / (across + within) if across + within else None,
        "recall": right / true if true else None,
        "inferred_per_session": sum(map(len, own.values())) / max(1, true_sessions),
    }


def _marked_pairs(cells: Sequence[Hashable], marked: Sequence[bool]) -> int:
    """Number of pairs of calls in one cell, of which at least one is marked."""
    totals = Counter(cells)
    others = Counter(cell for cell, counts in zip(cells, marked, strict=True) if not counts)
    return sum(math.comb(count, 2) - math.comb(others[cell], 2) for cell, count in totals.items())


def _true_session_labels(calls: list[LinkedCall]) -> list[str]:
    """The true session of each call, for scoring pairs; each call of exchangeable copies has one of its own."""
    kept = _kept_branches(calls)
    labels = []
    for number, call in enumerate(calls):
        label = call.run.name
        if call.run.kind == "identical":
            label = f"{label} call {number}"
        if call.run.kind == "forked":
            label = f"{label} branch {call.branch or kept[call.run.name]}"
        labels.append(label)
    return labels


def _true_session(call: LinkedCall, label: str) -> str:
    return call.run.name if call.run.kind == "identical" else label


def _kept_branches(calls: list[LinkedCall]) -> dict[str, str]:
    """The branch of each forked run that continued the session of the run's beginning."""
    before: defaultdict[str, Counter[str]] = defaultdict(Counter)
    after: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for call in calls:
        (after[call.run.name, call.branch] if call.branch else before[call.run.name])[call.inferred_session] += 1

    def linked_pairs(run: str, branch: str) -> int:
        return sum(count * after[run, branch][session] for session, count in before[run].items())

    return {run: "a" if linked_pairs(run, "a") >= linked_pairs(run, "b") else "b" for run in before}


def _exchangeable_pairs(calls: list[LinkedCall]) -> tuple[int, int, int]:
    """(right, true, found) pairs within jobs of identical copies, which may be swapped at every step."""
    steps: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    lengths: Counter[str] = Counter()
    for call in calls:
        if call.run.kind == "identical":
            steps[call.run.group, call.inferred_session][call.step] += 1
            lengths[call.run.name] += 1
    right = sum(
        math.comb(sum(count > layer for count in counts.values()), 2)
        for counts in steps.values()
        for layer in range(max(counts.values()))
    )
    true = sum(math.comb(length, 2) for length in lengths.values())
    return right, true, sum(math.comb(counts.total(), 2) for counts in steps.values())


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| kind | sessions | calls | precision | recall | inferred per session |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = " | ".join("–" if row[name] is None else f"{row[name]:.2%}" for name in ("precision", "recall"))
        cells = f"{row['kind']} | {row['sessions']} | {row['calls']} | {shares} | {row['inferred_per_session']:.2f}"
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def examples(calls: list[LinkedCall], count: int) -> Iterable[str]:
    """Split sessions (a letter for each call's session, ' for a retry), and runs that were linked to one session."""
    runs: defaultdict[tuple[str, str], list[LinkedCall]] = defaultdict(list)
    sessions: defaultdict[str, list[LinkedCall]] = defaultdict(list)
    for call in calls:
        runs[call.run.name, call.branch].append(call)
        sessions[call.inferred_session].append(call)
    shown: Counter[str] = Counter()
    for (name, branch), own in runs.items():
        kind, order = own[0].run.kind, list(dict.fromkeys(call.inferred_session for call in own))
        shown[kind] += len(order) > 1
        if len(order) > 1 and shown[kind] <= count:
            letters = (
                f"{chr(ord('A') + order.index(call.inferred_session) % 26)}{chr(39) * call.is_retry}" for call in own
            )
            yield f"split, {kind}: {name} {branch}: {''.join(letters)}"
    shown.clear()
    for session, own in sessions.items():
        kinds = " + ".join(sorted({call.run.kind for call in own}))
        several = len({call.run.group for call in own}) > 1
        shown[kinds] += several
        if several and shown[kinds] <= count:
            steps: defaultdict[str, list[str]] = defaultdict(list)
            for call in own:
                steps[f"{call.run.name} {call.branch}"].append(f"{call.step}{chr(39) * call.is_retry}")
            runs_text = "; ".join(f"{name}: {','.join(numbers)}" for name, numbers in steps.items())
            yield f"merged, {kinds}: {session}: {runs_text}"
