"""Worker processes: handle, process groups, tasks, and the measurement lock."""
