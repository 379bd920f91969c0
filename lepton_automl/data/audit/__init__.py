"""Checks of a data set: duplicates, leaks, doubtful labels, and the table without them."""
