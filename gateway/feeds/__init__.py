"""News from outside: prices, sizes, grids, engines, meters. Here they are read and judged: data files that other packages ship (the
packages are not imported), and what feeds answer. Nothing here dials: `observatory.py` asks, through `edge/fetch`.
"""
