"""Classifiers: RequestFeatures -> Classification (complexity, task type, reason).

`task_type` finds the task type; `transparent` and `learned` give the log-odds of complexity, to which task type, role
and own traffic add theirs. To add one: a file, a line in `classify.py`, a labeled table in the tests.
"""
