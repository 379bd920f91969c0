"""Picture files and arrays of pixels: decoding, sizes, kinds and pixel scales."""
