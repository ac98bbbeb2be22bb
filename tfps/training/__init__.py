"""Training on the workers: what a closure runs, what crosses the network, and how an epoch is handed out."""
