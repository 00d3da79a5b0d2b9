"""What it emits: `energy.py` tokens -> millijoules, `intensity.py` zone -> gCO2e/kWh, `footprint.py` puts both together.

Pure. Formulas with their sources and error bars stand in docs/methodology.md.
"""
