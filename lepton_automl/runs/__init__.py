"""The run folder on disk: definition, ledger, live status and time budget."""
