"""`python -m tests.faults` runs the kinds of faults; see `driver`."""

import os

# Before torch: nets of this process and of workers are compared, which have one thread.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

from tests.faults.driver import main

if __name__ == "__main__":
    raise SystemExit(main())
