"""Synchronous training: the contributions of workers wait on the servers until one update merges them."""
