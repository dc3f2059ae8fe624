"""DQN from pixels on Atari: one loop over one replay memory."""

import os

__version__ = "0.1.0"  # the only place: pyproject.toml reads it

# Between two parallel regions OpenMP's threads wait by spinning: GOMP's up to 300,000 times, KMP's for 200 ms. That
# gains little on an idle machine, and costs up to nine tenths where anything else wants the same cores: see
# benchmarks/busy.py. The
# libraries read this when torch loads them, so it stands here, and only where a person has chosen nothing.
SPIN = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
if not os.environ.keys() & {"OMP_WAIT_POLICY", *SPIN}:
    os.environ.update(SPIN)
