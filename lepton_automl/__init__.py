"""Lepton: labelled data in, the smallest accurate int8 CNN out."""

__version__ = "0.1.0"
