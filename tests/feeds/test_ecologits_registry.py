"""EcoLogits' registry: sizes, ranges, aliases and warnings."""

from gateway.feeds import ecologits_registry

# The shape of EcoLogits 0.11.3's models.json.
REGISTRY = {
    "aliases": [
        {"type": "alias", "provider": "x", "name": "nick", "alias": "Moe-Model"},
        {"type": "alias", "provider": "x", "name": "lost", "alias": "gone"},
    ],
    "models": [
        {"name": "dense", "architecture": {"type": "dense", "parameters": 32.3}, "warnings": None},
        {"name": "ranged", "architecture": {"type": "dense", "parameters": {"min": 20, "max": 40}}, "warnings": ["model-arch-not-released"]},
        {"name": "Moe-Model", "architecture": {"type": "moe", "parameters": {"total": 440, "active": {"min": 44, "max": 132}}}},
        {"name": "odd", "architecture": {"type": "dense", "parameters": None}},
        {"name": "odder", "architecture": None},
    ],
}  # fmt: skip


def test_registry_sizes_and_warnings():
    estimates = ecologits_registry.parse(REGISTRY)
    assert set(estimates) == {"dense", "ranged", "moe-model", "nick"}
    assert (estimates["ranged"].active_params_b, estimates["ranged"].warning) == (30.0, "model arch not released")
    assert estimates["nick"] == estimates["moe-model"]
    assert (estimates["nick"].total_params_b, estimates["nick"].active_params_b) == (440.0, 88.0)


def test_without_the_package_the_registry_is_empty():
    if not ecologits_registry.load():
        assert ecologits_registry.find("gpt-4o") is None
