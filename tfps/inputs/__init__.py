"""How one dataset is divided between the workers: shipping its graph, cutting out shards, feeding what cannot go."""
