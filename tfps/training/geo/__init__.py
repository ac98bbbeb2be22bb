"""GEO training: a worker trains a window of batches on its own rows, then pushes the deltas of these rows."""
