"""Who answers: `facts.py` what the request looks like, `classifiers/` how hard it is, `rules/` who may not serve it,
`plan.py` the order of attempts, `retry.py` and `health.py` what a failure means. Pure; health is a book.
"""
