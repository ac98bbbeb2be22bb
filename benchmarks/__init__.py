"""Measurements, each run by name: `python -m benchmarks.ctr_dnn --help`. None of them is a test."""
