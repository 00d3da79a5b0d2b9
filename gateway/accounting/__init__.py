"""What a request costs: token estimates, prices, budgets and holds.

`token_estimate.py` counts tokens without a tokenizer, `pricing.py` turns usage into nUSD, `budgets.py` keeps limits,
reservations and spending. Pure; budgets take `now` and never await.
"""
