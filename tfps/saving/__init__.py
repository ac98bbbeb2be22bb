"""Checkpoints: written by the servers that hold the rows, complete or not there, read on any number of servers."""
