"""Divides one dataset between the workers: ships its graph, cuts it into shards, or feeds batches from the chief."""
