"""Looks into steps: dumps of what they compute, the first step in which two runs part, and the first NaN."""
