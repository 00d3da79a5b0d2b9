"""Compares what the store believes with the routing file and with the ledgers: limits, open holds, what was spent."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aof_replay import Replay

from gateway.accounting.budget_lines import applies, line_of
from gateway.pipeline.settle import amounts_of
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry
from gateway.values.snapshot import World

# (tenant, budget and scope values, window): an account without the turn of its window.
Place = tuple[str, str]


@dataclass
class Findings:
    """What one run came to; `wrong` is empty if everything holds. `notes` are worth reading, and no violation."""

    accounts: int = 0
    transactions: int = 0
    instants: int = 0
    over: int = 0
    over_later: int = 0
    held: int = 0
    orphans: int = 0
    unequal: int = 0
    expired: int = 0
    full: int = 0
    wrong: list[str] = field(default_factory=list)
    # How the accounts stand at the end, by key.
    final: dict[str, dict[bytes, int]] = field(default_factory=dict)


def limits(world: World) -> Callable[[str], int | None]:
    """The ceiling of the account that a key names; None for a key that is no account."""
    ceilings = {budget.name: budget.refuse for budget in (*world.budgets, *world.caps.budgets)}

    def limit_of(key: str) -> int | None:
        _, part, account = key.partition("}:account:")
        return ceilings[account.split("|", 1)[0]] if part else None

    return limit_of


def place_of(key: str) -> Place:
    """Where an account's key belongs: all turns of a calendar window come to one place."""
    tenant, _, account = key.removeprefix("penstock:{").partition("}:account:")
    return tenant, account.rsplit("|", 1)[0]


def ledgers(folders: Iterable[Path]) -> list[LedgerEntry]:
    """Every entry of every ledger."""
    found: list[LedgerEntry] = []
    for folder in folders:
        store = SqliteLedger(folder / "ledger.sqlite")
        try:
            found += store.entries()
        finally:
            store.close()
    return found


def booked(world: World, entries: Iterable[LedgerEntry]) -> dict[Place, int]:
    """What the ledgers say was spent, by account."""
    sums: dict[Place, int] = defaultdict(int)
    budgets = (*world.budgets, *world.caps.budgets)
    now = time.time()
    for entry in entries:
        amounts = amounts_of(entry)
        if not any(amounts):
            continue
        scope = {name: getattr(entry, name) for name in ("org", "team", "key", "user", "task_type", "route")}
        scope |= {name: getattr(entry, name) for name in ("deployment", "model", "tier", "provider")}
        scope["session"] = entry.root
        for budget in budgets:
            if applies(budget, scope):
                account = line_of(budget, scope, now=now).account
                sums[entry.org, account.rsplit("|", 1)[0]] += amounts[budget.measure] or 0
    return sums


def check(
    world: World, lives: list[list[Path]], gateways: dict[str, Path], *, killed: set[str], forgetful: bool
) -> Findings:
    """Everything that must hold after a run.

    `lives`: for each node its folders, one for each life that began empty; `gateways`: data folders by replica;
    `killed`: replicas that were, whose holds may wait for their lease. `forgetful`: the store lost its data, so that
    only the end of its last life is compared.
    """
    findings = Findings()
    entries = ledgers(gateways.values())
    sums, known = booked(world, entries), {entry.id for entry in entries}
    spent: dict[Place, int] = defaultdict(int)
    for folders in lives:
        for number, folder in enumerate(folders):
            replay = Replay(limits(world)).folder(folder)
            findings.transactions += replay.transactions
            findings.instants += replay.instants
            findings.expired += replay.expired
            full = [key for key, peak in replay.peaks.items() if peak >= 0.9 * (replay.limit_of(key) or 0)]
            findings.full += len(full)
            _limits_kept(findings, replay, later=forgetful and number > 0)
            if number == len(folders) - 1:
                _nothing_held(findings, replay, known, killed)
                findings.final |= replay.accounts()
                _steps_end(findings, replay)
                for key in replay.accounts():
                    spent[place_of(key)] += replay.booked[key]
    findings.accounts = len(spent)
    _ledgers_agree(findings, world, spent, sums)
    return findings


def _limits_kept(findings: Findings, replay: Replay, *, later: bool) -> None:
    accounts = {one.account for one in replay.over}
    if later:
        findings.over_later += len(accounts)
        return
    findings.over += len(replay.over)
    for one in replay.over[:5]:
        findings.wrong.append(
            f"over its limit: {one.account}: spent {one.spent} + held {one.held} > {one.limit} (transaction {one.transaction})"
        )


def _nothing_held(findings: Findings, replay: Replay, known: set[str], killed: set[str]) -> None:
    """Nothing may be held at the end but what a killed gateway had reserved and not yet written down."""
    left: dict[str, int] = defaultdict(int)
    for id, fields in replay.holds().items():
        replica = fields[b"replica"].decode()
        if replica in killed and id not in known:
            findings.orphans += 1
            for line in range(1, int(fields[b"n"]) + 1):
                left[fields[b"a%d" % line].decode()] += int(fields[b"h%d" % line])
        else:
            findings.wrong.append(
                f"an open hold at the end: {id}, {'in' if id in known else 'not in'} a ledger, "
                f"its gateway was {'' if replica in killed else 'not '}killed"
            )
    for key, figures in replay.accounts().items():
        more = figures.get(b"held", 0) - left[key]
        if more:
            findings.held += 1
            findings.wrong.append(f"held at the end: {key}: {more}")


def _steps_end(findings: Findings, replay: Replay) -> None:
    """A rolling account takes its steps out from `first` on: one below it would count for ever."""
    stuck = []
    for key, fields in replay.hashes.items():
        if b"first" in fields and replay.limit_of(key) is not None:
            first = int(fields[b"first"])
            stuck += [key for name in fields if name.startswith(b"b:") and int(name[2:]) < first]
    if stuck:
        findings.wrong.append(f"{len(stuck)} steps of rolling accounts lie before `first` and never end: {stuck[0]}")


def _ledgers_agree(findings: Findings, world: World, spent: dict[Place, int], sums: dict[Place, int]) -> None:
    ceilings = {budget.name: budget for budget in (*world.budgets, *world.caps.budgets)}
    for place in sorted(spent.keys() | sums.keys()):
        store, own = spent.get(place, 0), sums.get(place, 0)
        budget = ceilings[place[1].split("|", 1)[0]]
        if store != own:
            findings.unequal += 1
            findings.wrong.append(
                f"spent differs: {place[0]} {place[1]} ({budget.window.kind}): store {store}, ledgers {own}, {store - own:+}"
            )


def over_by_ledger(world: World, folders: Iterable[Path]) -> list[str]:
    """Accounts whose calls, as the ledgers have them, took more than the limit; right while the run lies within one
    turn of every window."""
    sums = booked(world, ledgers(folders))
    ceilings = {budget.name: budget.refuse for budget in (*world.budgets, *world.caps.budgets)}
    return [
        f"the ledgers have more than the limit: {place[0]} {place[1]}: {amount} > {ceilings[place[1].split('|', 1)[0]]}"
        for place, amount in sums.items()
        if amount > ceilings[place[1].split("|", 1)[0]]
    ]
