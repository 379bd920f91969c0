"""`python -m tests.faults` runs the kinds of faults; see `driver`."""

from tests.faults.driver import main

if __name__ == "__main__":
    raise SystemExit(main())
