"""Compares the energy estimate with published figures.

published_figures.py reads them, ecologits.py has EcoLogits' method, benchmark.py the errors, report.py the text. Pure
but for reading the files. Start with benchmark.py.
"""
