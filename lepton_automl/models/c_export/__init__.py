"""C99 source of a quantized net, which needs no library: kernels, constants, a test, wrappers."""
