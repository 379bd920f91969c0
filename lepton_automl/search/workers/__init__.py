"""Processes that train trials, and what they run."""
