"""One module per question; run as `python -m benchmarks.NAME --json OUT` from the root."""

import os

# One thread, so that CPU time means the same on every machine; numpy reads these when imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
