"""Propose new trials that satisfy the cost limits."""
