"""Evaluates routers on prompts with known outcomes of both tiers.

Reads files, no network; needs numpy, and is imported by `penstock eval` and `penstock learn` alone. Start in
measures.py (the measures), then benchmark.py (routers by source), routers.py (the routers).
"""
