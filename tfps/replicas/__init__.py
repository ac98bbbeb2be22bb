"""Strategies under which every device holds the whole model: one device, several of a host, several hosts."""
