"""What a request emits: energy, carbon intensity, footprint, metering.

`energy.py`: tokens -> joules; `intensity.py`: zone -> gCO2e/kWh; `footprint.py` combines both and
`footprint_breakdown.py` shows it line by line. `concurrency.py` infers concurrency from the time between tokens,
`meter_attribution.py` attributes a meter's joules to requests. Pure. docs/methodology.md has the formulas with their
sources and error bars.
"""
