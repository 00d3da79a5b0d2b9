"""Classifiers: Facts -> Verdict (complexity, task type, confidence, reason). Pure.

To add one: a file like `transparent.py`, a line here, a labelled table in the tests.
"""

from . import transparent

CLASSIFIERS = {"transparent": transparent.classify}
