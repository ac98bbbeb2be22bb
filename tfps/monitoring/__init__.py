"""What a running job shows of itself: counts, snapshots, a board's socket, the metrics port. No TensorFlow.

`record` counts what happens, where it happens. `snapshot` is a job at one moment, as a value. `collector` makes
snapshots while somebody wants them. `publishing` gives them to `tfps-top`, and `metrics_port` to Prometheus.
"""
