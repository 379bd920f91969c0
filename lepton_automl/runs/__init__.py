"""The run folder on disk: definition, ledger, live status and time budget.

Start at `folder` (its paths), `definition` (what identifies a run) and `ledger` (its events, in
SQLite).

- `lock`: who may change the folder; `ledger_check` and `write_ahead_log`: damage is found
- `live_status`: what a running command says; `time_budget`: time of the stages after the search
- `test_set_uses`: how often a test part was judged, over all runs of a user
- a copy in object storage: `store` is its format, `store_copy` writes it, `stored_run` joins both
"""
