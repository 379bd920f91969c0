"""Mutants of every format that lepton reads from outside; see `kinds`."""

from tests.faults.mutants.kinds import KINDS

__all__ = ["KINDS"]
