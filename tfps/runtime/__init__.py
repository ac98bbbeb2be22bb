"""Runs calls on other tasks: a thread for each worker, the calls under way, and the loss of workers."""
