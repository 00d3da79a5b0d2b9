"""Runs `penstock serve` with a wrong clock: `python loadtest/skewed_clock.py SECONDS ROUTING_FILE`."""

import sys
import time

from gateway import app
from gateway.cli.main import main

if __name__ == "__main__":
    skew = float(sys.argv[1])
    app.SystemClock.now = staticmethod(lambda: time.time() + skew)
    sys.exit(main(["serve", sys.argv[2]]))
