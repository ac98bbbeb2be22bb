"""Measurements, each a command: `python -m benchmarks.ctr_dnn --help`. None of them is a test."""
