"""Picture files and arrays of pixels: decoding, sizes, kinds and pixel scales.

Start at `decode`: one function decodes pictures for training, evaluation and prediction.

- how a picture becomes one of the size of a net: `framing`
- what is known of stored pictures: `formats` (size and kind), `levels` (darkest and brightest)
- which stored value is black and which white: `pixel_scale`
- pictures in `.npy` files: `array_files`
- PNG files of the simplest form in less time: `plain_png`
- TIFF files of floats that Pillow does not read: `float_tiff`
"""
