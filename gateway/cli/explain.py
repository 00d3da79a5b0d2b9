"""`penstock explain`: routing and cost of one request, and its footprint line by line."""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..carbon.energy import energy_models
from ..carbon.footprint import footprint
from ..carbon.footprint_breakdown import BreakdownLine, breakdown, factors_text
from ..config.load import load
from ..config.settings import read_settings
from ..stores.ledger_sqlite import SqliteLedger
from ..stores.metered_energy_sqlite import SqliteMeteredEnergy
from ..values.catalog import CONCURRENCY_SOURCES, Deployment, EnergyProfile
from ..values.grid import GRID_METHODS, CarbonIntensity
from ..values.ledger_entry import LedgerEntry
from ..values.snapshot import Snapshot
from ..values.units import MICROGRAMS_PER_GRAM, MILLIJOULES_PER_WH, Bounds, nusd_to_usd
from ..values.usage import Usage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A request of the ledger, or a hypothetical one."""
    parser.add_argument(
        "request", nargs="?", metavar="REQUEST_ID", help="id of a request in the ledger (x-penstock-request-id)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="routing file (default: PENSTOCK_CONFIG, else config/routing.yaml)"
    )
    parser.add_argument(
        "--deployment", metavar="NAME", help="estimate a hypothetical request at this deployment instead"
    )
    parser.add_argument(
        "--input", type=int, default=1000, metavar="N", help="with --deployment: input tokens (default: 1000)"
    )
    parser.add_argument(
        "--cached",
        type=int,
        default=0,
        metavar="N",
        help="with --deployment: input tokens read from a cache (default: 0)",
    )
    parser.add_argument(
        "--output", type=int, default=300, metavar="N", help="with --deployment: output tokens (default: 300)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation; 1 if the request or deployment is unknown, 2 for invalid arguments."""
    settings = read_settings()
    snapshot, _ = load(args.config or settings.config, os.environ, need_secrets=False)
    if args.deployment is not None:
        return _explain_hypothetical(snapshot, args)
    if args.request is None:
        print("penstock: REQUEST_ID or --deployment NAME is required", file=sys.stderr)
        return 2
    path = settings.data / "ledger.sqlite"
    if not path.exists():
        print(
            f"penstock: no ledger in {settings.data}; set PENSTOCK_DATA to the data folder of a gateway",
            file=sys.stderr,
        )
        return 1
    store = SqliteLedger(path, must_exist=True)
    try:
        entries = store.entries_of_request(args.request)
    finally:
        store.close()
    if not entries:
        print(f"penstock: request '{args.request[:100]}' not found in the ledger", file=sys.stderr)
        return 1
    metered = SqliteMeteredEnergy(path)
    for entry in entries:
        for part in _explain_entry(entry, snapshot, metered.millijoules_of(entry.id)):
            print(part)
    return 0


def _explain_hypothetical(snapshot: Snapshot, args: argparse.Namespace) -> int:
    deployment = snapshot.deployments.get(args.deployment)
    if deployment is None:
        print(f"penstock: unknown deployment '{args.deployment[:100]}'", file=sys.stderr)
        return 1
    if min(args.input, args.output, args.cached) < 0 or args.cached > args.input:
        print("penstock: token counts must be 0 or more, and --cached at most --input", file=sys.stderr)
        return 2
    if deployment.energy_profile is None:
        print(
            f"penstock: unknown model size of '{deployment.model}'; set 'energy' of deployment '{deployment.name}'",
            file=sys.stderr,
        )
        return 1
    usage = Usage(input=args.input, cached_input=args.cached, output=args.output)
    print(f"A request at {deployment.name} ({deployment.model})\n")
    print(_footprint_table(deployment, deployment.intensity, usage))
    return 0


def _charge_text(entry: LedgerEntry) -> str:
    if not entry.priced:
        return "unpriced"
    text = f"{nusd_to_usd(entry.charge_nusd)} USD"
    if entry.service_tier:
        text += f" at tier {entry.service_tier}"
    if entry.unpriced_parts:
        text += f", without {entry.unpriced_parts.replace(',', ', ')} (unpriced)"
    if entry.reported_cost_nusd:
        text += f"; the provider reports {nusd_to_usd(entry.reported_cost_nusd)} USD"
    return text


def _explain_entry(entry: LedgerEntry, snapshot: Snapshot, metered: int | None) -> Iterator[str]:
    """One attempt: the decision, its cost, its footprint, and the frontier for comparison.

    Of a correction only its figures, which are differences.
    """
    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="seconds")
    rows = [
        ("request", f"{entry.request_id}, attempt {entry.attempts}, {at}"),
        ("route", f"{entry.route} -> {entry.deployment} ({entry.model}, {entry.tier})"),
        ("reason", entry.reason),
        ("task type", f"{entry.task_type}, complexity {entry.complexity:.3f}"),
        ("outcome", f"{entry.outcome} {entry.status} {entry.code}".rstrip()),
        (
            "tokens",
            f"{entry.input_tokens:,} in ({entry.cached_input_tokens:,} cached), {entry.output_tokens:,} out, {entry.usage_basis}",
        ),
        ("charge", _charge_text(entry)),
        (
            "on frontier",
            f"{nusd_to_usd(entry.reference_nusd)} USD, {_format_grams(entry.reference_carbon_ug)} (equal tokens)",
        ),
        ("market-based", _format_grams(entry.market_carbon_ug)),
        ("method", entry.footprint_method),
    ]
    if entry.deferred_ms:
        undeferred = _format_grams(entry.undeferred_carbon_ug)
        rows.append(("deferred", f"{entry.deferred_ms / 1000:,.0f} s; {undeferred} without deferral"))
    if metered is not None:
        rows.append(("metered", f"{metered / 1000:.4g} J of accelerator energy"))
    yield "\n".join(f"{name:<13} {value}" for name, value in rows) + "\n"
    deployment = snapshot.deployments.get(entry.deployment)
    if entry.usage_basis == "none" or entry.outcome == "corrected":
        return
    if deployment is None or deployment.energy_profile is None:
        yield f"Footprint not recomputed: the routing file has no model size for deployment '{entry.deployment}'.\n"
        return
    yield from _recompute_footprint(entry, deployment)


def _recompute_footprint(entry: LedgerEntry, deployment: Deployment) -> Iterator[str]:
    """The calculation with the entry's inputs, and whether it reproduces the ledger."""
    assert deployment.energy_profile is not None
    source = entry.footprint_method.partition("/")[0]
    profile = replace(
        deployment.energy_profile,
        concurrency=entry.concurrency or None,
        concurrency_source=next((name for name in CONCURRENCY_SOURCES if name in source), "prior"),
        meter_scale=entry.energy_scale or 1.0,
    )
    method, _, feed = [*entry.footprint_method.split("/"), "", "", ""][2].partition(":")
    grid = CarbonIntensity(
        zone=entry.grid_zone,
        grams_per_kwh=entry.grid_grams_per_kwh,
        method=method if method in GRID_METHODS else "world",
        feed=feed,
    )
    usage = Usage(input=entry.input_tokens, cached_input=entry.cached_input_tokens, output=entry.output_tokens)
    pictures = next(
        (choice for choice in (False, True) if _matches_entry(entry, profile, grid, usage, pictures=choice)), None
    )
    yield _footprint_table(replace(deployment, energy_profile=profile), grid, usage, pictures=bool(pictures))
    if pictures is not None:
        yield "The ledger has the same figures.\n"
    else:
        yield (
            f"The ledger has {entry.energy_mj_mid / MILLIJOULES_PER_WH:.6g} Wh and {_format_grams(entry.carbon_ug_mid)}:"
            f" the call was charged as held, or configuration {entry.config_hash} or method {entry.footprint_method}"
            " described the deployment differently.\n"
        )


def _matches_entry(
    entry: LedgerEntry, profile: EnergyProfile, grid: CarbonIntensity, usage: Usage, *, pictures: bool
) -> bool:
    """Whether the calculation reproduces every figure of the entry."""
    result = footprint(energy_models(profile), grid, usage, has_images=pictures)
    energy = Bounds(entry.energy_mj_low, entry.energy_mj_mid, entry.energy_mj_high)
    carbon = Bounds(entry.carbon_ug_low, entry.carbon_ug_mid, entry.carbon_ug_high)
    return (result.energy_millijoules, result.carbon_micrograms) == (energy, carbon)


def _footprint_table(deployment: Deployment, grid: CarbonIntensity, usage: Usage, *, pictures: bool = False) -> str:
    profile = deployment.energy_profile
    assert profile is not None
    factors = factors_text(profile)
    title = (
        f"{profile.active_params_b:g} of {profile.total_params_b:g} billion parameters at {profile.bytes_per_param * 8:g} bits"
        f" (from {profile.source}), {profile.hardware}" + f"; {factors}" * bool(factors)
    )
    head = f"{'':<19}{'low':>10}{'mid':>10}{'high':>10}"
    rows = [_format_row(line) for line in breakdown(profile, grid, usage, has_images=pictures)]
    return "\n".join([title, "", head, "-" * len(head), *rows, ""])


def _format_row(line: BreakdownLine) -> str:
    figures = "".join([f"{value:>10.4g}" for value in (line.low, line.mid, line.high)])
    return f"{line.name:<19}{figures} {line.unit:<9} {line.formula}".rstrip()


def _format_grams(micrograms: int) -> str:
    return f"{micrograms / MICROGRAMS_PER_GRAM:.6g} g"
