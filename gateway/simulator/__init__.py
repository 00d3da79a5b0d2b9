"""Fakes that pass the contract tests of the real adapters, and the playbook.

Shipped with the product because the demo runs on `provider.py` and `agent_sessions.py`.
"""
