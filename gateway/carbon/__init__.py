"""What it emits: `energy.py` tokens -> joules, `intensity.py` zone -> gCO2e/kWh, `footprint.py` puts both together, `arithmetic.py`
shows it line by line; two books: `concurrency.py` from time between tokens, `metering.py` a meter's joules among requests.

Pure. Formulas with their sources and error bars stand in docs/methodology.md.
"""
