"""Training and fitting, offline: public outcomes -> the scorer's weights; labels of own traffic -> floors and corrections.

Needs numpy, and is imported by `penstock learn` and `penstock eval` alone: nothing that serves knows this room.
Start in train.py (the shipped weights), then fit.py (what an operator's own labels carry), correct.py (how).
"""
