"""The folder that ships: its files, their verification on the test part, and the verdict.

Start at `writer` (what is written, the `manifest` last) and `verify` (what is measured on it; the
result is a `verdict`), which runs in a `verification_process` with limits.

- what verification does: `consistency` of the files with each other, `parity` with exact integer
  arithmetic, `measurements` of each file, `format_files` of further formats (on
  `own_sizes`, pictures as they are, where they take these), `judging` of limits,
  `rejection` ("none of these"), `board_fits`, `front_end_reference` (features of sound)
- what is chosen before: `fastest_format`, which ships with `--prefer latency`
- what else lies in the folder: `model_card` (with `formatting`), `provenance`, `signature`,
  `bill_of_materials`, `lepton_device` (a program for devices without lepton)
- using a file: `sealed_model` finds it; `predict` (of `input_files`), `format_predictor` for
  further formats; `timing` with its child process `timing_server`
"""
