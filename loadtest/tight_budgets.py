"""The routing file of the overspend test: three organizations, six deployments, budgets that most calls run into.

Every measure, kind of window and dimension occurs. Limits are amounts per 1,000 calls, drawn for each seed. Budgets of
sessions are absolute: a session has the same few turns whatever the number of calls.
"""

import json
import random

# One organization on each of three masters, by the distribution of the 16,384 slots.
ORGS = ("hooli", "umbrella", "acme")
KEYS = {
    f"{org}-{number}": (org, f"{org}-{team}") for org in ORGS for number, team in ((1, "red"), (2, "red"), (3, "blue"))
}
ROUTES = {
    "auto": {"candidates": ["small", "medium", "frontier"], "auto": True},
    "small": {"candidates": ["small"]},
    "spread": {"candidates": ["small", "spare"]},
    "best": {"candidates": ["frontier", "medium", "small"]},
    "shaky": {"candidates": ["flaky", "medium", "small"]},
    "claude": {"candidates": ["claude", "medium"]},
}
# Entries of the bundled price list, at the same prices, which also price service tiers and searches.
PRICE_LISTS = {"small": "gpt-5-mini", "frontier": "gpt-5", "claude": "claude-sonnet-4-5"}
# Deployment: model, tier, price in and out (USD per million tokens), active parameters (billions), zone.
DEPLOYMENTS = {
    "small": ("sim-small", "small", 0.25, 2, 8, "FRA"),
    "spare": ("sim-small", "small", 0.3, 2.4, 8, "DEU"),
    "flaky": ("sim-flaky", "small", 0.2, 1.5, 8, "FRA"),
    "medium": ("sim-medium", "medium", 0.6, 4, 25, "DEU"),
    "frontier": ("sim-frontier", "frontier", 1.25, 10, 60, "USA"),
    "claude": ("sim-claude", "frontier", 3, 15, 60, "USA"),
}
# Name: scope, unit, amount, window; amounts are per 1,000 calls, except for budgets of sessions and users.
BUDGETS = {
    "org-usd-month": ({"org": "*"}, "usd", 0.45, "month"),
    "org-wh-day": ({"org": "*"}, "wh", 60, "day"),
    "org-carbon-total": ({"org": "*"}, "g_co2e", 15, "total"),
    "org-tokens-hour": ({"org": "*"}, "tokens", 62_000, "hour"),
    "org-calls-minute": ({"org": "*"}, "calls", 220, "rolling-1m"),
    "team-usd-rolling": ({"team": "*"}, "usd", 0.27, "rolling-1h"),
    "team-tokens-week": ({"team": "*"}, "tokens", 40_000, "week"),
    "red-calls-hour": ({"team": "hooli-red"}, "calls", 110, "hour"),
    "key-usd-minute": ({"key": "*"}, "usd", 0.17, "rolling-1m"),
    "key-calls-day": ({"key": "*"}, "calls", 75, "day"),
    "key-wh-rolling": ({"key": "*"}, "wh", 24, "rolling-1h"),
    "user-calls-total": ({"user": "*"}, "calls", 9, "total"),
    "user-tokens-minute": ({"user": "*", "team": "*"}, "tokens", 3_500, "rolling-1m"),
    "tokens-per-session": ({}, "tokens", 2_600, "session"),
    "session-usd-hour": ({"session": "*"}, "usd", 0.02, "hour"),
    "task-usd-day": ({"org": "*", "task_type": "*"}, "usd", 0.22, "day"),
    "code-carbon-hour": ({"org": "*", "task_type": "code"}, "g_co2e", 3.2, "hour"),
    "route-tokens-minute": ({"org": "*", "route": "*"}, "tokens", 17_000, "rolling-1m"),
    "route-calls-week": ({"org": "*", "route": "*"}, "calls", 55, "week"),
    "model-usd-total": ({"org": "*", "model": "*"}, "usd", 0.2, "total"),
    "tier-wh-hour": ({"team": "*", "tier": "*"}, "wh", 14, "hour"),
    "frontier-usd-minute": ({"org": "*", "tier": "frontier"}, "usd", 0.17, "rolling-1m"),
    "provider-tokens-day": ({"org": "*", "provider": "*"}, "tokens", 24_000, "day"),
    "deployment-calls-minute": ({"org": "*", "deployment": "*"}, "calls", 70, "rolling-1m"),
    "deployment-carbon-month": ({"team": "*", "deployment": "*"}, "g_co2e", 2.8, "month"),
}  # fmt: skip
_INTEGER_UNITS = ("tokens", "calls")
_ABSOLUTE_SCOPES = ("user", "session")


def routing(
    models: dict[str, str], calls: int, randomness: random.Random, *, patience: float, loose: bool = False
) -> str:
    """The routing file as JSON, which is valid YAML.

    models: base URL of each model's provider
    patience: seconds that a provider may be silent
    loose: multiplies every limit by 1,000
    """
    document = {
        "version": 1,
        "keys": [
            {"id": key, "org": org, "team": team, "secret": {"env": secret_name(key)}}
            for key, (org, team) in KEYS.items()
        ],
        "providers": {model: _provider(model, url) for model, url in models.items()},
        "deployments": {
            name: _deployment(*fields, patience, PRICE_LISTS.get(name)) for name, fields in DEPLOYMENTS.items()
        },
        "routes": ROUTES,
        "task_types": {"code": {"tools": ["bash"], "words": ["debug", "function"]}, "summary": {"words": ["meeting"]}},
        "retries": {"same_deployment": 1},
        "sessions": {"caps": {"calls": 6 * (1000 if loose else 1), "usd": 20}, "hold": "worst_case"},
        "budgets": {name: _budget(name, calls, 1000 if loose else randomness.uniform(0.75, 1.35)) for name in BUDGETS},
    }
    return json.dumps(document, indent=1)


def secret_name(key: str) -> str:
    """Environment variable of a key's secret; the secret is the key's name."""
    return "OVERSPEND_" + key.upper().replace("-", "_")


def key_environment() -> dict[str, str]:
    """The environment variables that the file refers to."""
    return {secret_name(key): key for key in KEYS} | {"OVERSPEND_PROVIDER": "provider-secret"}


def _provider(model: str, url: str) -> dict[str, object]:
    dialect = "anthropic" if model == "sim-claude" else "openai"
    return {"dialect": dialect, "base_url": url, "api_key": {"env": "OVERSPEND_PROVIDER"}}


def _deployment(
    model: str, tier: str, input: float, output: float, params: int, zone: str, patience: float, price_list: str | None
) -> dict[str, object]:
    price = {"input": input, "output": output, "cached_input": input / 10, "cache_write": input * 1.25}
    return {
        "provider": model,
        "model": model,
        "tier": tier,
        **({"price": price} if price_list is None else {"price_list": price_list}),
        "energy": {"active_params_b": params},
        "zone": zone,
        "output_tokens": 400,
        # Long enough for a busy machine, short enough that hanging calls end within the run.
        "timeouts": {"connect": 5, "first_byte": patience, "idle": patience, "total": 20},
    }


def _budget(name: str, calls: int, factor: float) -> dict[str, object]:
    scope, unit, amount, window = BUDGETS[name]
    scale = 1 if window == "session" or set(_ABSOLUTE_SCOPES) & set(scope) else calls / 1000
    limit = amount * scale * factor
    return {
        "scope": scope,
        "limit": {unit: max(1, round(limit)) if unit in _INTEGER_UNITS else round(limit, 6)},
        "window": window,
    }
