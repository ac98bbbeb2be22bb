"""Mutual TLS between the tasks of a cluster: certificates, and a tunnel beside each task."""
