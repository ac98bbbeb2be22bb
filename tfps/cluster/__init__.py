"""The cluster: addresses of tasks (TF_CONFIG), the servers of this machine, and the errors of tasks that fail."""
