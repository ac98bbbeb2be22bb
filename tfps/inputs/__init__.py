"""How one dataset is shared between the workers: sharding its graph, shipping it, feeding what cannot be shipped."""
