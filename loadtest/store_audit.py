"""Compares the budget store with the routing file and the ledgers: limits, open holds, spent amounts."""

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

# (tenant, budget and scope values): an account without the period of its window.
AccountId = tuple[str, str]


@dataclass
class AuditFindings:
    """Counts and violations of one run.

    accounts: accounts that were used
    transactions, checked_states: replayed transactions, checked account states
    overruns: states over a limit
    overruns_after_loss: accounts over their limit after the store lost its data
    accounts_still_held: accounts with a held amount at the end
    orphaned_holds: open holds of killed gateways that are in no ledger
    unequal_accounts: accounts whose spent amount differs from the ledgers
    expired_holds: holds that expired
    above_hold: charges above their hold
    nearly_full_accounts: accounts that reached 90 % of their limit
    violations: failed checks; empty for a good run
    final_accounts: amounts at the end, by account key
    """

    accounts: int = 0
    transactions: int = 0
    checked_states: int = 0
    overruns: int = 0
    overruns_after_loss: int = 0
    accounts_still_held: int = 0
    orphaned_holds: int = 0
    unequal_accounts: int = 0
    expired_holds: int = 0
    above_hold: int = 0
    nearly_full_accounts: int = 0
    violations: list[str] = field(default_factory=list)
    final_accounts: dict[str, dict[bytes, int]] = field(default_factory=dict)


def account_limits(snapshot: Snapshot) -> Callable[[str], int | None]:
    """Returns a function from a key to its account's limit, None for a key that is no account."""
    ceilings = {budget.name: budget.refuse_above for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}

    def limit_of(key: str) -> int | None:
        _, part, account = key.partition("}:account:")
        return ceilings[account.split("|", 1)[0]] if part else None

    return limit_of


def account_id_of(key: str) -> AccountId:
    """The account of a key, the same for all periods of a calendar window."""
    tenant, _, account = key.removeprefix("penstock:{").partition("}:account:")
    return tenant, account.rsplit("|", 1)[0]


def read_ledgers(folders: Iterable[Path]) -> list[LedgerEntry]:
    """Every entry of every ledger."""
    entries: list[LedgerEntry] = []
    for folder in folders:
        store = SqliteLedger(folder / "ledger.sqlite")
        try:
            entries += store.entries()
        finally:
            store.close()
    return entries


def spent_by_account(snapshot: Snapshot, entries: Iterable[LedgerEntry]) -> dict[AccountId, int]:
    """Spent amounts by account, from ledger entries."""
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
    snapshot: Snapshot, store_folders: list[list[Path]], gateways: dict[str, Path], *, killed: set[str], forgetful: bool
) -> AuditFindings:
    """Checks everything that must hold after a run.

    store_folders: for each node its data folders, one for each start with empty data
    gateways: data folders by replica
    killed: killed replicas; their holds may wait for their lease
    forgetful: the store lost its data, so only the state after its last empty start is compared
    """
    findings = AuditFindings()
    entries = read_ledgers(gateways.values())
    sums, entry_ids = spent_by_account(snapshot, entries), {entry.id for entry in entries}
    spent: dict[AccountId, int] = defaultdict(int)
    for folders in store_folders:
        for number, folder in enumerate(folders):
            replay = AofReplay(account_limits(snapshot)).replay_folder(folder)
            findings.transactions += replay.transaction_count
            findings.checked_states += replay.checked_states
            findings.expired_holds += replay.expired_holds
            full = [key for key, peak in replay.peaks.items() if peak >= 0.9 * (replay.limit_of(key) or 0)]
            findings.nearly_full_accounts += len(full)
            _check_limits(findings, replay, after_loss=forgetful and number > 0)
            if number == len(folders) - 1:
                _check_no_holds(findings, replay, entry_ids, killed)
                findings.final_accounts |= replay.accounts()
                _check_rolling_buckets(findings, replay)
                for key in replay.accounts():
                    spent[account_id_of(key)] += replay.booked_totals[key]
    findings.accounts = len(spent)
    _check_ledgers(findings, snapshot, spent, sums)
    _check_charges(findings, entries)
    return findings


def _check_charges(findings: AuditFindings, entries: Iterable[LedgerEntry]) -> None:
    """No charge is above its hold, whatever is charged."""
    for entry in entries:
        if entry.charge_nusd > entry.hold_nusd:
            findings.above_hold += 1
            findings.violations.append(
                f"charge above its hold: {entry.id} {entry.deployment}: {entry.charge_nusd} > {entry.hold_nusd}"
            )


def _check_limits(findings: AuditFindings, replay: AofReplay, *, after_loss: bool) -> None:
    accounts = {overrun.account for overrun in replay.overruns}
    if after_loss:
        findings.overruns_after_loss += len(accounts)
        return
    findings.overruns += len(replay.overruns)
    for overrun in replay.overruns[:5]:
        findings.violations.append(
            f"account over its limit: {overrun.account}: spent {overrun.spent} + held {overrun.held} > {overrun.limit}"
            f" (transaction {overrun.transaction})"
        )


def _check_no_holds(findings: AuditFindings, replay: AofReplay, entry_ids: set[str], killed: set[str]) -> None:
    """At the end only killed gateways may have holds, and only those that are in no ledger."""
    orphaned: dict[str, int] = defaultdict(int)
    for id, fields in replay.open_holds().items():
        replica = fields[b"replica"].decode()
        if replica in killed and id not in entry_ids:
            findings.orphaned_holds += 1
            for line in range(1, int(fields[b"n"]) + 1):
                orphaned[fields[b"a%d" % line].decode()] += int(fields[b"h%d" % line])
        else:
            findings.violations.append(
                f"open hold at the end: {id}, {'in' if id in entry_ids else 'not in'} a ledger, "
                f"its gateway was {'' if replica in killed else 'not '}killed"
            )
    for key, figures in replay.accounts().items():
        excess = figures.get(b"held", 0) - orphaned[key]
        if excess:
            findings.accounts_still_held += 1
            findings.violations.append(f"amount held at the end: {key}: {excess}")


def _check_rolling_buckets(findings: AuditFindings, replay: AofReplay) -> None:
    """A rolling account removes its steps from `first` on: a step before it would count forever."""
    stuck = []
    for key, fields in replay.hashes.items():
        if b"first" in fields and replay.limit_of(key) is not None:
            first = int(fields[b"first"])
            stuck += [key for name in fields if name.startswith(b"b:") and int(name[2:]) < first]
    if stuck:
        findings.violations.append(
            f"{len(stuck)} steps of rolling accounts precede `first` and never expire: {stuck[0]}"
        )


def _check_ledgers(
    findings: AuditFindings, snapshot: Snapshot, spent: dict[AccountId, int], sums: dict[AccountId, int]
) -> None:
    budgets = {budget.name: budget for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}
    for account in sorted(spent.keys() | sums.keys()):
        store, ledgers = spent.get(account, 0), sums.get(account, 0)
        budget = budgets[account[1].split("|", 1)[0]]
        if store != ledgers:
            findings.unequal_accounts += 1
            findings.violations.append(
                f"spent amount differs: {account[0]} {account[1]} ({budget.window.kind}):"
                f" store {store}, ledgers {ledgers}, {store - ledgers:+}"
            )


def ledger_overruns(snapshot: Snapshot, folders: Iterable[Path]) -> list[str]:
    """Accounts whose ledger entries exceed the limit; valid for a run within one period of every window."""
    sums = spent_by_account(snapshot, read_ledgers(folders))
    ceilings = {budget.name: budget.refuse_above for budget in (*snapshot.budgets, *snapshot.default_caps.tree_budgets)}
    return [
        f"ledgers over the limit: {account[0]} {account[1]}: {amount} > {ceilings[account[1].split('|', 1)[0]]}"
        for account, amount in sums.items()
        if amount > ceilings[account[1].split("|", 1)[0]]
    ]
