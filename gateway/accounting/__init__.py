"""What it costs: `estimate.py` counts tokens without a tokenizer, `pricing.py` turns usage into nUSD, `budgets.py` is
the book of limits, reservations and what was spent. Pure; the book takes `now` and never awaits.
"""
