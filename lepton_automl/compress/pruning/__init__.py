"""Cut channels and layers by what they cost and what they contribute."""
