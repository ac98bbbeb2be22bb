"""The settings of a CTR-DNN run: processes, mode, and how often dense variables cross."""

import dataclasses
from typing import Any

MODES = ("async", "sync", "geo", "allreduce")
WIRES = ("float32", "bfloat16", "int8")


@dataclasses.dataclass(frozen=True)
class Setup:
    """A cluster and a mode. Only tfps uses the mode and `exchange_every`.

    Args:
        ps: parameter servers.
        workers: workers.
        mode: one of `MODES`.
        exchange_every: steps of a closure, in GEO of a window; None for the default.
        overlap: whether windows, or dense variables in async mode, are exchanged while others are trained.
        prefetch: whether rows are asked for a step ahead (async).
        wire: how rows, gradients and deltas cross.
    """

    ps: int = 1
    workers: int = 2
    mode: str = "async"
    exchange_every: int | None = None
    overlap: bool = False
    prefetch: bool = False
    wire: str = "float32"

    def __post_init__(self) -> None:
        """Checks the fields."""
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: {self.mode!r}.")
        if self.exchange_every is not None and self.mode == "sync":
            raise ValueError("`exchange_every` must be None in sync mode, where a closure is a step.")
        if self.overlap and self.mode in ("sync", "allreduce"):
            raise ValueError(f"`overlap` must be False in {self.mode} mode, where every step waits for the one before.")

    def optimizer(self, optimizer: Any) -> Any:
        """The Keras optimizer in this mode."""
        import tfps

        if self.mode == "sync":
            return tfps.optimizers.Sync(optimizer)
        if self.mode == "geo":
            every = {"push_every": self.exchange_every} if self.exchange_every else {}
            return tfps.optimizers.Geo(optimizer, overlap=self.overlap, **every)
        return optimizer

    def strategy(self, cluster: Any) -> Any:
        """A strategy on this cluster; on the cluster of TF_CONFIG if it is None."""
        import tfps

        if self.mode == "allreduce":
            return tfps.ParameterServerStrategy(
                cluster, dense="allreduce", dense_exchange_every=self.exchange_every, prefetch_lookups=self.prefetch
            )
        if self.mode != "async":
            return tfps.ParameterServerStrategy(cluster, wire=self.wire)
        return tfps.ParameterServerStrategy(
            cluster,
            dense_exchange_every=self.exchange_every,
            overlap_dense_exchange=self.overlap,
            prefetch_lookups=self.prefetch,
            wire=self.wire,
        )
