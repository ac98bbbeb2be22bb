"""`Dump`: writes what steps compute, while `fit` trains a model."""

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfps.checks import check_choice, check_integer
from tfps.debug import dump_costs
from tfps.debug.dumped_steps import ChosenLayers, DumpedSteps
from tfps.debug.folder import open_folder
from tfps.debug.model_layers import ModelLayers
from tfps.debug.observation import is_observed, observe, stop_observing
from tfps.debug.observed_fit import ObservedFit
from tfps.debug.selection import GRADIENTS, VALUES, WHAT, Selection
from tfps.debug.step_file import FORMATS, HEADER, NPZ, PARQUET
from tfps.debug.worker import DumpSettings
from tfps.errors import ConfigError
from tfps.keras.failed_fit import EndsWithFit
from tfps.keras.model_content import strategy_of
from tfps.keras.optimizers import leading_optimizer
from tfps.version import __version__

_LOG = logging.getLogger("tfps")

LIMIT_BYTES = 10**9
"""The most bytes of a dump unless the user chooses: enough for 10,000 steps of 100 kB."""


class Dump(EndsWithFit):
    """Writes parameters, outputs of layers, gradients and touched rows of the steps that `fit` trains.

    `tfps-dump diff` compares two dumps: a run with a correct one, a cluster with one process. It works for models of a
    `ParameterServerStrategy` and for models without a strategy. Each worker writes its own steps; where workers do not
    share a disk with the program, `url` is an object store, or their files are on their own disks. A step does not wait
    for the disk. If the disk is so slow that 256 MB wait, steps are left out, and the log says so.

    While the callback is in use, a step does more work, and the log says how much at the end. It costs nothing in a
    `fit` without the callback: steps are traced anew then, without it.

    Args:
        url: the folder of the dump, a path or an fsspec URL. It is made if it is not there, and holds one dump.
        layers: names or paths of layers; None for all. A nested model stands for all its layers.
        steps: a range, or a list, of the numbers of the steps, from 0; None for all. They are counted as one process
            counts its batches, over all workers; in `Sync` and all-reduce training all workers take part in each step.
        workers: the numbers of the workers that write; None for all.
        what: some of "values" (dense parameters before the step, and outputs of layers), "gradients" (of dense
            parameters) and "rows" (of tables and embeddings: ids, rows before the step, gradients by id).
        limit_bytes: the most bytes of all files. Dumping ends with a warning before the step that would exceed it, and
            training goes on. None for 1 GB; a dump that is sure to be larger is then refused.
        format: "npz" or "parquet", which needs pyarrow.

    Raises:
        ConfigError: an argument breaks its rule; the folder holds another dump; a library is not installed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        layers: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        workers: Sequence[int] | None = None,
        what: Sequence[str] = WHAT,
        limit_bytes: int | None = None,
        format: str = NPZ,
    ) -> None:
        super().__init__()
        self._selection = Selection(layers, steps, workers, what)
        self._limit_bytes = None if limit_bytes is None else check_integer("limit_bytes", limit_bytes, at_least=1)
        self._format = check_choice("format", format, FORMATS)
        if self._format == PARQUET:
            _check_pyarrow()
        self._folder = open_folder(url)
        self._dump, self._is_new = uuid.uuid4().hex, True
        _check_empty(self._folder.path, self._folder.names())
        self._fit = ObservedFit("Dump", self._folder, self._begin_steps, self._end_steps)
        self._steps: DumpedSteps | None = None
        self._is_over = False
        self._began_at = self._trained_s = 0.0
        self._first_step = 0

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Begins the dump. Keras calls this before it makes the function of a step, and when it has set the model."""
        super().set_params(params)
        self._fit.begin(self.model)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Says when the limit is reached."""
        if not self._is_over and dump_costs.collect(self._dump, strategy_of(self.model), timeout_s=0.0).over_limit:
            self._is_over = True
            _LOG.warning(
                "Dump: `limit_bytes`, %s, is reached: the dump has ended, and training goes on.",
                dump_costs.show(self._limit()),
            )

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Warns if there is no `fit`."""
        self._fit.refuse_untrained(self.model)

    def on_predict_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Warns if there is no `fit`."""
        self._fit.refuse_untrained(self.model)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Waits for the disk, says what the dump has cost, and takes it out of the model's steps."""
        self._finish(dump_costs.DRAIN_S)

    def on_train_fail(self) -> None:
        """Does the same where `fit` raises: the last steps are those that matter then."""
        # It may have failed before the dump began.
        if self._steps is not None and is_observed(self.model, self._steps):
            self._finish(dump_costs.FAILED_DRAIN_S)

    def _finish(self, drain_s: float) -> None:
        self._fit.end(self.model)
        strategy = strategy_of(self.model)
        costs = dump_costs.collect(self._dump, strategy, drain_s)
        workers = 1 if strategy is None else strategy.num_workers
        # The costs are those of all calls of `fit` so far.
        self._trained_s += (time.monotonic() - self._began_at) * workers
        dump_costs.tell(costs, self._folder.path, self._trained_s, self._limit())
        if not (costs.steps or costs.over_limit or costs.left_out):
            _LOG.warning(
                "Dump: no step was written. Chosen: steps %s, workers %s. Trained: steps %d to %d, of %d workers.",
                *(*self._selection.describe(), self._first_step, self._trained_steps() - 1, workers),
            )

    def _limit(self) -> int:
        return LIMIT_BYTES if self._limit_bytes is None else self._limit_bytes

    def _begin_steps(self, model: keras.Model) -> None:
        """Checks the model, and begins the dump."""
        strategy = strategy_of(model)
        workers = 1 if strategy is None else strategy.num_workers
        self._selection.check_workers(workers)
        layers = ModelLayers(model)
        chosen = ChosenLayers(self._selection)
        chosen.choose(layers, is_final=all(layer.built for layer in layers.layers))
        self._check_size(layers, chosen)
        header = self._header(model, [path for path in layers.names if chosen.has(path)], workers)
        # The header is of the limit too.
        rest = max(0, self._limit() - len(header.encode()))
        limit = rest // (workers if self._selection.workers is None else len(self._selection.workers))
        settings = DumpSettings(self._dump, self._folder.path, self._format, limit, header)
        self._steps = DumpedSteps(self._selection, chosen, settings)
        if self._is_new:
            _check_empty(self._folder.path, self._folder.names())
            self._folder.write(HEADER, header.encode())
            self._is_new, self._first_step = False, self._trained_steps()
        self._began_at = time.monotonic()
        observe(model, self._steps)

    def _end_steps(self, model: keras.Model) -> None:
        if self._steps is not None:
            stop_observing(model, self._steps)

    def _check_size(self, layers: ModelLayers, chosen: ChosenLayers) -> None:
        """Says how large the dump will be at least, and refuses it if that is above the default limit."""
        variables = [one for one in layers.dense_variables() if chosen.has(layers.locate(one)[0])]
        gradients = [one for one in variables if one.trainable]
        dumped = variables * (VALUES in self._selection.what) + gradients * (GRADIENTS in self._selection.what)
        each = sum(map(dump_costs.bytes_of, dumped))
        steps = self._selection.count_steps(self._trained_steps(), self._steps_of_fit())
        limit = self._limit()
        if steps is not None and self._limit_bytes is None and steps * each > limit:
            raise ConfigError(
                f"`limit_bytes` must be given for a dump of more than {dump_costs.show(limit)}. Received: None, for "
                f"{steps:,} steps of at least {dump_costs.show(each)}, which are {dump_costs.show(steps * each)}. "
                "Valid: limit_bytes=; or fewer `steps`, `layers` or kinds in `what`."
            )
        how_many = "all steps" if steps is None else f"{steps:,} steps"
        _LOG.info(
            "Dump: %s to %s: at least %s a step, beside outputs of layers and rows; at most %s in all.",
            *(how_many, self._folder.path, dump_costs.show(each), dump_costs.show(limit)),
        )

    def _trained_steps(self) -> int:
        optimizer = leading_optimizer(self.model)
        return 0 if optimizer is None else int(optimizer.iterations)

    def _steps_of_fit(self) -> int | None:
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        return None if steps is None or epochs is None else int(steps) * int(epochs)

    def _header(self, model: keras.Model, layers: Sequence[str], workers: int) -> str:
        selection = self._selection
        fields = {
            "format": "tfps-dump",
            "version": 1,
            "dump": self._dump,
            "tfps": __version__,
            "model": model.name,
            "file_format": self._format,
            "num_workers": workers,
            "mode": "one process" if strategy_of(model) is None else type(leading_optimizer(model)).__name__,
            "layers": layers,
            "all_layers": selection.layers is None,
            "steps": str(selection.steps) if isinstance(selection.steps, range) else selection.steps,
            "workers": selection.workers,
            "what": selection.what,
        }
        return json.dumps(fields, indent=1) + "\n"


def _check_empty(path: str, names: Sequence[str]) -> None:
    # A header without steps is of a program that did not come to its first step.
    if any(name.startswith("worker-") for name in names):
        raise ConfigError(f"`url` must be a folder without a dump. Received: {path!r}. Valid: another folder.")


def _check_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            '`format` "parquet" needs pyarrow. Valid: pip install tfps[parquet], or format="npz".'
        ) from None
