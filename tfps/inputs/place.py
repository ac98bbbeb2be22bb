"""`Place`: how far an epoch of an input has come, to go on from there in another program.

Every batch before a place was trained, and no other. The random states make the order of the batches the same: those of
Python and numpy at the begin of the epoch, and that of Python when the chief gave seeds to shuffles without one.
Threading: frozen values; the random states are those of the process.
"""

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfps.checks import check_bool, check_integer, check_list, check_type
from tfps.errors import CheckpointError
from tfps.types import JSON

_LOG = logging.getLogger("tfps")

RandomStates = Mapping[str, Any]
"""The states of Python's and numpy's global generators, as JSON."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in an epoch of an input.

    Args:
        number: the number of the epoch among those of the dataset, from 1.
        taken: for each shard, the number of its trained batches; one number if the batches were read in order.
        examples: the number of examples in a batch; None if it is not known.
        by_file: whether shards were whole files, so that batches belong to a shard only for this number of shards.
        began: the random states when the epoch began.
        order: the random states from which shuffles without a seed got one.
    """

    number: int
    taken: tuple[int, ...]
    examples: int | None = None
    by_file: bool = False
    began: RandomStates | None = None
    order: RandomStates | None = None

    @property
    def batches(self) -> int:
        """The number of trained batches."""
        return sum(self.taken)

    def in_batches_of(self, examples: int | None) -> "Place":
        """Returns the place in an input with another batch size; itself where the size is the same or not known.

        Args:
            examples: the number of examples in a batch.
        """
        if examples is None or self.examples in (None, examples):
            return self
        # Whole batches alone, so some examples may be trained twice and none is left out.
        batches = self.batches * int(self.examples or 1) // examples
        _LOG.warning(
            "a batch had %d examples and has %d now: fit goes on after the first %d examples of the epoch.",
            self.examples,
            examples,
            batches * examples,
        )
        return dataclasses.replace(self, taken=(batches,), examples=examples)

    def taken_by(self, shards: int) -> list[int]:
        """Returns for each of a number of shards how many of its batches were trained.

        If the trained batches are not the first ones of the input, they cannot be told to another number of shards:
        as many batches from the begin count as trained then, and the log says how many that gets wrong.
        """
        # The usual case: the cluster is as large as it was.
        if len(self.taken) == shards and shards > 1:
            return list(self.taken)
        wanted = _split(self.batches, shards)
        if len(self.taken) > 1:
            # Example: of 2 shards 5 and 3 batches were trained: 0, 2, 4, 6, 8 and 1, 3, 5. The first 8 miss number 8.
            even = _split(self.batches, len(self.taken))
            wrong = sum(max(0, own - other) for own, other in zip(self.taken, even, strict=True))
            if self.by_file:
                _LOG.warning(
                    "the input was divided by file between %d workers, and now there are %d: the rest of the epoch has "
                    "other batches than it would have had.",
                    len(self.taken),
                    shards,
                )
            elif wrong:
                _LOG.warning(
                    "%d batches of this epoch are trained twice and %d are not, because there were %d workers and now "
                    "there are %d.",
                    wrong,
                    wrong,
                    len(self.taken),
                    shards,
                )
        return wanted

    def to_json(self) -> JSON:
        """Returns the place as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: JSON) -> "Place":
        """Reads a place.

        Raises:
            CheckpointError: the value is not what `to_json` returns.
        """
        # Whoever can write to the folder can change it, so each field is checked.
        fields = check_type("input", value, dict, "an object", error=CheckpointError)
        taken = check_list("taken", fields.get("taken"), "a list of numbers", error=CheckpointError)
        examples = fields.get("examples")
        states = {name: fields.get(name) for name in ("began", "order")}
        for name, state in states.items():
            if state is not None:
                _parse(name, state)
        return cls(
            check_integer("number", fields.get("number"), at_least=1, error=CheckpointError),
            tuple(check_integer("taken", one, at_least=0, error=CheckpointError) for one in taken),
            None if examples is None else check_integer("examples", examples, at_least=1, error=CheckpointError),
            check_bool("by_file", fields.get("by_file"), error=CheckpointError),
            **states,
        )


def _split(batches: int, shards: int) -> list[int]:
    """Returns how many of the first batches belong to each shard, where batch i belongs to shard i % shards."""
    return [len(range(shard, batches, shards)) for shard in range(shards)]


def random_states() -> RandomStates:
    """Returns the states of Python's and numpy's global generators."""
    # JSON has no tuples, so the states become lists.
    version, numbers, spare = random.getstate()
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  # programs use the global generator
    return {
        "python": [version, list(numbers), spare],
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
    }


def set_random_states(states: RandomStates) -> None:
    """Sets the states of Python's and numpy's global generators.

    Raises:
        CheckpointError: the states are not what `random_states` returns.
    """
    python, numpy_state = _parse("random", states)
    random.setstate(python)
    np.random.set_state(numpy_state)  # noqa: NPY002  # see above


def _parse(name: str, states: object) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Checks random states and returns them in the form that Python and numpy take."""
    try:
        assert isinstance(states, Mapping)
        version, numbers, spare = states["python"]
        keys, position, has_gauss, gauss = states["numpy"]
        python = (int(version), tuple(map(int, numbers)), None if spare is None else float(spare))
        for_numpy = ("MT19937", np.array(keys, np.uint32), int(position), int(has_gauss), float(gauss))
        # Both check the numbers; these generators are thrown away.
        random.Random().setstate(python)
        np.random.RandomState().set_state(for_numpy)  # noqa: NPY002  # it checks what the global generator takes
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the random states `{name}` are broken: {error}.") from None
    return python, for_numpy


def is_prefix(taken: Sequence[int]) -> bool:
    """Whether the trained batches of shards are the first ones of the input."""
    return list(taken) == _split(sum(taken), len(taken))
