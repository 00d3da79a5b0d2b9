"""Evaluation and training. Nothing that serves a request imports it."""
