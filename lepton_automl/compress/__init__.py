"""Pruning, recovery and quantization of a trained network."""
