"""What runs on other tasks: a thread for each worker, the calls under way, and workers that are lost."""
