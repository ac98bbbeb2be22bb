"""Steps on the workers: what one closure does, what crosses, how an epoch is handed out."""
