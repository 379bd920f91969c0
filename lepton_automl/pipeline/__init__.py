"""What each command does, from its configuration to its result.

Start at `run`: it opens a run and goes through its `stages`; `export` writes, verifies and seals
the artifact, which gives an `outcome`; `verify` verifies it again. `context` opens a run:
`resources` loads and checks what its options name, `data_opening` opens the data.

- other commands on a run: `pick`, `status`, `front`, `dashboard`, and `stores` (`lepton store`)
- models that no search made: `compress_net` (lepton's format), `compress_onnx` (ONNX)
- data: `data_report` finds what is wrong, `data_page` is its HTML page, `data_files` writes both
- files: `bench_files` and `bench_ops` (`lepton bench`), `inspection` (`lepton inspect`)
- drawings in SVG: `charts` (front and steps), `net_chart`
- sweeps: `sweep` runs them, `sweep_file` reads the table, `sweep_table` writes the results
- `option_values`: options as they are typed, converted to arguments of the Python API
"""
