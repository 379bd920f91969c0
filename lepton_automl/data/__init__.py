"""Labelled samples: sources, decoding, splits, sampling and checks.

Start at `opening.open_dataset`: `loading` finds the source (`sources/`, with what they share in
`layouts/`) and reads `samples`; `checked_samples` reads every picture once; `splits/` groups
samples and assigns them to parts; the result is a `dataset.Dataset`.

- pictures: `pictures/` decodes them, `decode_pool` in several processes; `picture_check` reads one
  to check it, `picture_check_cache` keeps the results, `pixel_cache` keeps decoded pixels
- values over time: `signals`, `signal_files`; sound: `audio`, `audio_files`
- Parquet: `parquet_process`, a child process with limits
- for training: `tensors`, `sampling` (class-balanced subsets), `folds` (cross-validation)
- `audit/`: what is wrong with a data set
"""
