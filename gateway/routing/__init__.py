"""Routing: which deployments serve a request, in which order, and why. No I/O.

request_features.py: what the request looks like
classify.py, classifiers/: task type and complexity
tier_target.py: the lowest tier that suffices
rules/: which candidates may not serve it
plan.py: the order of attempts
next_attempt.py, circuit_breaker.py: what follows a failure
"""
