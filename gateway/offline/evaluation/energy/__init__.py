"""The energy estimate beside published figures: points.py (what is known) ecologits.py (the rival's method) trial.py (errors) told.py.

Pure but for reading the files. Start with trial.py.
"""
