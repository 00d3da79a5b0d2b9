"""Sessions: identity and lineage, caps, the loop guard and its ladder.

Pure; `session_index.py` and `loop_guard.py` hold state. Keeps process-keyed digests, never prompt text.
"""
