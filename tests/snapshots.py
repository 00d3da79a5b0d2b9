"""Snapshots for tests: a routing file in text, with the parts that a test changes."""

from gateway.config.load import parse
from gateway.values.snapshot import Snapshot

BASE_CONFIG = """
version: 1
access: keys
keys:
  - {{id: k1, team: research, secret: {{env: KEY_ONE}}}}
  - {{id: k2, team: sales, secret: {{env: KEY_TWO}}}}
providers:
  near: {{base_url: "{near}", api_key: {{env: PROVIDER_KEY}}}}
  far: {{base_url: "{far}", api_key: {{env: PROVIDER_KEY}}}}
deployments:
  small:
    {{provider: near, model: sim-small, tier: small, price: {{input: 0.25, output: 2, cached_input: 0.025}},
     energy: {{active_params_b: 8}}, zone: FRA, output_tokens: 4000{small}}}
  frontier:
    {{provider: far, model: sim-frontier, tier: frontier, price: {{input: 1.25, output: 10}},
     energy: {{active_params_b: 60, total_params_b: 400}}, zone: USA, output_tokens: 4000}}
routes:
  auto: {{candidates: [small, frontier], auto: true}}
  small: {{candidates: [small]}}
  frontier: {{candidates: [frontier]}}
task_types:
  code: {{tools: [bash], words: [debug, function]}}
  summary: {{words: [summarize, meeting]}}
retries: {{same_deployment: 1}}
{more}
"""
ENV = {"KEY_ONE": "secret-one", "KEY_TWO": "secret-two", "PROVIDER_KEY": "provider-secret"}


def snapshot(
    *,
    config: str = BASE_CONFIG,
    more: str = "",
    small: str = "",
    near: str = "http://127.0.0.1:1/v1",
    far: str = "http://127.0.0.1:2/v1",
) -> Snapshot:
    """A small and a frontier deployment behind `auto`, two keys; `more` is appended, `small` adds to that deployment."""
    return parse(config.format(more=more, small=small, near=near, far=far), "test.yaml", ENV)[0]
