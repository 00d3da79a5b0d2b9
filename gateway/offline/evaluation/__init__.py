"""Evaluates loop detectors on recorded agent sessions, call by call.

Our loop guard is compared with published rules. Reads files and measures time, no network; imported by `penstock eval`
alone. Start in report.py (what is counted), then replay.py (when a rule is evaluated), published_rules.py and
penstock_rule.py (the rules).
"""
