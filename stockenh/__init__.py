"""Trains and honestly judges deep models that forecast stocks from daily bars."""

import os

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for each other. Beside another busy process that costs far more
# than it saves: on two cores with two neighbours a small model trained 17 times slower. OpenMP reads this
# when torch is loaded, so it must stand here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
