"""Classifiers: Facts -> Verdict (complexity, task type, confidence, reason).

`task_type` says what kind of work it is, `transparent` and `learned` how hard it looks; both give log-odds, to which a
kind of work, a role and what was learnt from own traffic add theirs. To add one: a file, a line in `opinion`, a
labelled table in the tests.
"""
