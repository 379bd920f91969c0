"""Worker processes: what runs in them, and how the coordinator communicates with them.

`task` is a training as data, `run_task` runs it alike in any process.

- on this machine: `launch` starts processes of `worker`, `handle` sends tasks and notices hangs,
  `rank` is one process of a group that trains one net, `measurement_lock` pauses all of them
- on hosts: `agent` (`lepton worker`) serves tasks over a `channel`
- on a Dask cluster: `dask_entry`, `dask_task`
- where no disk is shared: `remote_task` is a task as text, `blob_cache` holds the files it needs
"""
