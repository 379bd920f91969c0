"""The command line: one file a command.

Start at `app`, which lists the commands and turns errors into exit codes.

- shared: `options`, `grouped_help` and `examples` (of `--help`), `plain_values` (of options),
  `streams` (stdout and stderr), `report/` (tables, JSON, progress)
- making a file: `data`, `run`, `search`, `compress`, `export`, `verify`, `pick`, `sweep`
- looking at runs: `status`, `store`, `dashboard`; at files: `predict`, `inspect`, `bench`
- lists: `spaces`, `boards`; on other machines: `cluster`, `worker`
"""
