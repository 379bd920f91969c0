"""Accuracy intervals, bootstrap, balanced accuracy and paired drops."""
