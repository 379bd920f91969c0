"""Size, multiply-accumulates, peak memory and latency of a network, measured or predicted."""
