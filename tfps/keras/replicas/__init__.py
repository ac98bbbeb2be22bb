"""Keras under the strategies of `tfps.replicas`: row-wise updates, exact metrics, one epoch of any input."""
