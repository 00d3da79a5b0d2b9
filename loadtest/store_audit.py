"""Compares what the store believes with the routing file and with the ledgers: limits, open holds, what was spent."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aof_replay import AofReplay

from gateway.accounting.budget_lines import applies, line_of
from gateway.pipeline.settle import amounts_of
from gateway.stores.ledger_sqlite import SqliteLedger
from gateway.values.ledger_entry import LedgerEntry
from gateway.values.snapshot import Snapshot

# (tenant, budget and scope values, window): an account without the turn of its window.
AccountId = tuple[str, str]


@dataclass
class AuditFindings:
    """What one run came to; `wrong` is empty if everything holds. `notes` are worth reading, and no violation."""

    accounts: int = 0
    transactions: int = 0
    checked_states: int = 0
    overruns: int = 0
    overruns_after_loss: int = 0
    accounts_still_held: int = 0
    orphaned_holds: int = 0
    unequal_accounts: int = 0
    expired_holds: int = 0
    nearly_full_accounts: int = 0
    violations: list[str] = field(default_factory=list)
    # How the accounts stand at the end, by key.
    final_accounts: dict[str, dict[bytes, int]] = field(default_factory=dict)


def account_limits(snapshot: Snapshot) -> Callable[[str], int | None]:
    """The ceiling of the account that a key names; None for a key that is no account."""
    ceilings = {budget.name: budget.refuse_above for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}

    def limit_of(key: str) -> int | None:
        _, part, account = key.partition("}:account:")
        return ceilings[account.split("|", 1)[0]] if part else None

    return limit_of


def account_id_of(key: str) -> AccountId:
    """Where an account's key belongs: all turns of a calendar window come to one place."""
    tenant, _, account = key.removeprefix("penstock:{").partition("}:account:")
    return tenant, account.rsplit("|", 1)[0]


def read_ledgers(folders: Iterable[Path]) -> list[LedgerEntry]:
    """Every entry of every ledger."""
    found: list[LedgerEntry] = []
    for folder in folders:
        store = SqliteLedger(folder / "ledger.sqlite")
        try:
            found += store.entries()
        finally:
            store.close()
    return found


def spent_by_account(snapshot: Snapshot, entries: Iterable[LedgerEntry]) -> dict[AccountId, int]:
    """What the ledgers say was spent, by account."""
    sums: dict[AccountId, int] = defaultdict(int)
    budgets = (*snapshot.budgets, *snapshot.default_caps.tree_budgets)
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
    snapshot: Snapshot, lives: list[list[Path]], gateways: dict[str, Path], *, killed: set[str], forgetful: bool
) -> AuditFindings:
    """Everything that must hold after a run.

    `lives`: for each node its folders, one for each life that began empty; `gateways`: data folders by replica;
    `killed`: replicas that were, whose holds may wait for their lease. `forgetful`: the store lost its data, so that
    only the end of its last life is compared.
    """
    findings = AuditFindings()
    entries = read_ledgers(gateways.values())
    sums, known = spent_by_account(snapshot, entries), {entry.id for entry in entries}
    spent: dict[AccountId, int] = defaultdict(int)
    for folders in lives:
        for number, folder in enumerate(folders):
            replay = AofReplay(account_limits(snapshot)).replay_folder(folder)
            findings.transactions += replay.transaction_count
            findings.checked_states += replay.checked_states
            findings.expired_holds += replay.expired_holds
            full = [key for key, peak in replay.peaks.items() if peak >= 0.9 * (replay.limit_of(key) or 0)]
            findings.nearly_full_accounts += len(full)
            _check_limits(findings, replay, later=forgetful and number > 0)
            if number == len(folders) - 1:
                _check_no_holds(findings, replay, known, killed)
                findings.final_accounts |= replay.accounts()
                _check_rolling_buckets(findings, replay)
                for key in replay.accounts():
                    spent[account_id_of(key)] += replay.booked_totals[key]
    findings.accounts = len(spent)
    _check_ledgers(findings, snapshot, spent, sums)
    return findings


def _check_limits(findings: AuditFindings, replay: AofReplay, *, later: bool) -> None:
    accounts = {one.account for one in replay.overruns}
    if later:
        findings.overruns_after_loss += len(accounts)
        return
    findings.overruns += len(replay.overruns)
    for one in replay.overruns[:5]:
        findings.violations.append(
            f"over its limit: {one.account}: spent {one.spent} + held {one.held} > {one.limit} (transaction {one.transaction})"
        )


def _check_no_holds(findings: AuditFindings, replay: AofReplay, known: set[str], killed: set[str]) -> None:
    """Nothing may be held at the end but what a killed gateway had reserved and not yet written down."""
    left: dict[str, int] = defaultdict(int)
    for id, fields in replay.open_holds().items():
        replica = fields[b"replica"].decode()
        if replica in killed and id not in known:
            findings.orphaned_holds += 1
            for line in range(1, int(fields[b"n"]) + 1):
                left[fields[b"a%d" % line].decode()] += int(fields[b"h%d" % line])
        else:
            findings.violations.append(
                f"an open hold at the end: {id}, {'in' if id in known else 'not in'} a ledger, "
                f"its gateway was {'' if replica in killed else 'not '}killed"
            )
    for key, figures in replay.accounts().items():
        more = figures.get(b"held", 0) - left[key]
        if more:
            findings.accounts_still_held += 1
            findings.violations.append(f"held at the end: {key}: {more}")


def _check_rolling_buckets(findings: AuditFindings, replay: AofReplay) -> None:
    """A rolling account takes its steps out from `first` on: one below it would count for ever."""
    stuck = []
    for key, fields in replay.hashes.items():
        if b"first" in fields and replay.limit_of(key) is not None:
            first = int(fields[b"first"])
            stuck += [key for name in fields if name.startswith(b"b:") and int(name[2:]) < first]
    if stuck:
        findings.violations.append(
            f"{len(stuck)} steps of rolling accounts lie before `first` and never end: {stuck[0]}"
        )


def _check_ledgers(
    findings: AuditFindings, snapshot: Snapshot, spent: dict[AccountId, int], sums: dict[AccountId, int]
) -> None:
    ceilings = {budget.name: budget for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}
    for place in sorted(spent.keys() | sums.keys()):
        store, own = spent.get(place, 0), sums.get(place, 0)
        budget = ceilings[place[1].split("|", 1)[0]]
        if store != own:
            findings.unequal_accounts += 1
            findings.violations.append(
                f"spent differs: {place[0]} {place[1]} ({budget.window.kind}): store {store}, ledgers {own}, {store - own:+}"
            )


def ledger_overruns(snapshot: Snapshot, folders: Iterable[Path]) -> list[str]:
    """Accounts whose calls, as the ledgers have them, took more than the limit; right while the run lies within one
    turn of every window."""
    sums = spent_by_account(snapshot, read_ledgers(folders))
    ceilings = {budget.name: budget.refuse_above for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}
    return [
        f"the ledgers have more than the limit: {place[0]} {place[1]}: {amount} > {ceilings[place[1].split('|', 1)[0]]}"
        for place, amount in sums.items()
        if amount > ceilings[place[1].split("|", 1)[0]]
    ]
