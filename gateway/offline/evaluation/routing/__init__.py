"""Routers on trial: prompts whose outcomes on a small and a frontier model are known, ranked by our scorer and by others.

Reads files, calls nobody; needs numpy, and is imported by `penstock eval` and `penstock learn` alone.
Start in curves.py (the measures), then trial.py (who is tried on what), labelled.py (the data).
"""
