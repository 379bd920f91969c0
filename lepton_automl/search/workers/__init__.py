"""Worker processes: pool, handle, process groups, tasks, and the measurement lock."""
