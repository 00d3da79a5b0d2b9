"""Fakes that pass the same contract tests as the real doors, the playbook, the clock, and the simulated provider.

Shipped with the product because the demo runs on `provider.py` and `sessions.py`.
"""
