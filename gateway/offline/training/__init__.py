"""Training and fitting, offline.

Public outcomes -> the scorer's weights; labels of own traffic -> floors and corrections. Needs numpy, and is imported
by `penstock learn` and `penstock eval` alone, never while serving. Start in train_scorer.py (the shipped weights), then
fit_floors.py (what an operator's own labels support), calibration.py (how).
"""
