"""Picture files and arrays of pixels: decoding, sizes, kinds and pixel scales.

Start at `decode`: one function decodes pictures for training, evaluation and prediction.

- `picture_files` opens them within limits of memory, `modes` makes grey or RGB of what they hold
- how a picture becomes one of the size of a net: `framing`
- what is known of stored pictures: `formats` (size and kind), `levels` (darkest and brightest)
- which stored value is black and which white: `pixel_scale`
- pictures in `.npy` files: `array_files`
- PNG files of the simplest form in less time: `plain_png`
- TIFF files of floats that Pillow does not read: `float_tiff`
"""
