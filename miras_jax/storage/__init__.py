"""Buckets: reaching them, copying out of and into them, one writer at a time."""
