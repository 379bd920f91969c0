"""File formats a model can be written in, one a file."""
