"""The search: one coordinator, tasks in worker processes, a ledger that survives everything."""
