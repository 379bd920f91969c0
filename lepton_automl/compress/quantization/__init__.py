"""Calibration, equalization, rounding and quantization-aware training."""
