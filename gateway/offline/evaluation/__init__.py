"""Detectors on trial: recorded agent sessions are replayed call by call, our loop guard beside published rules.

Reads files and measures time, changes nothing, calls nobody; imported by `penstock eval` alone.
Start in report.py (what is counted), then replay.py (when a rule is asked), published_rules.py and ours.py (who is).
"""
