"""Labelled samples: sources, decoding, splits, sampling and checks."""
