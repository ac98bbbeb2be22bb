"""Synchronous steps: contributions of workers wait on the servers until one update is made of them."""
