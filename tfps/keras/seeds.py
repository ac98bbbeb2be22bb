"""Random numbers in steps: where the generators of Keras and TensorFlow keep their state, and who draws from it.

Every step must draw new numbers, and two workers must not draw the same ones. A `keras.random.SeedGenerator` that was
made in the scope has its state on a server, and a worker draws from its own copy, which has a key of its own. Other
generators have their state on the chief: Keras's global generator, which serves `keras.random` functions without a
seed, and generators made outside the scope. A step draws from the *twin* of such a generator, which is on a server. The
twin starts from the state of the generator when a loop (`fit`, say) begins, and hands its state back at the end. So
eager code and steps continue one sequence, as in one process.

Operations such as `tf.random.normal` keep their state in the process that runs them. All workers run the same graph, so
with a fixed seed they would draw the same numbers; with several workers these operations get no fixed seed.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import config  # whether operations must be deterministic is not public

from tfps import step
from tfps.cluster import devices
from tfps.keras._compat import global_generator, set_global_generator
from tfps.keras.variables import current_strategy
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.strategy.variables import SeedVariable, StepVariable


class Twins:
    """The twins of generators whose state is on the chief, for one strategy.

    Threading: steps are traced in several threads, so a lock guards the creation of twins. Loops run in one thread.

    Args:
        strategy: the strategy whose servers hold the twins. It owns this object, so the reference is weak.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = weakref.ref(strategy)
        self._twins: weakref.WeakKeyDictionary[keras.random.SeedGenerator, keras.random.SeedGenerator] = (
            weakref.WeakKeyDictionary()
        )
        # The twin of the global generator outlives it: `keras.utils.set_random_seed` makes another one.
        self._global: keras.random.SeedGenerator | None = None
        # The state that a generator and its twin had in common last, by the id of the twin.
        self._common: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self._depth = 0

    def twin_of(self, generator: keras.random.SeedGenerator) -> keras.random.SeedGenerator:
        """Returns the twin of a generator whose state is on the chief."""
        with self._lock:
            if generator not in self._twins:
                self._twins[generator] = self._make(generator)
            return self._twins[generator]

    def global_twin(self) -> keras.random.SeedGenerator:
        """Returns the twin of Keras's global generator."""
        with self._lock:
            if self._global is None:
                self._global = self._make(_global_on_chief())
            return self._global

    @contextlib.contextmanager
    def loop(self) -> Iterator[None]:
        """The context of a loop of Keras: hands states to the twins, and back at the end; does nothing if nested.

        Cost: nothing without twins. With them, a read of each at the end, and a write where its generator has moved.
        """
        self._depth += 1
        try:
            if self._depth == 1:
                for generator, twin in self._pairs():
                    self._copy(generator, twin)
            yield
            # Not after an error: the servers may be gone.
            if self._depth == 1:
                for generator, twin in self._pairs():
                    self._copy(twin, generator, read=True)
        finally:
            self._depth -= 1

    def _pairs(self) -> list[tuple[keras.random.SeedGenerator, keras.random.SeedGenerator]]:
        with self._lock:
            pairs = list(self._twins.items())
            return pairs if self._global is None else [*pairs, (_global_on_chief(), self._global)]

    def global_state(self) -> list[int]:
        """Returns the current state of Keras's global generator, that of its twin while a loop runs."""
        generator = self._global if self._global is not None and self._depth else _global_on_chief()
        return [int(one) for one in np.asarray(generator.state.numpy())]

    def set_global_state(self, state: list[int]) -> None:
        """Sets the state of Keras's global generator and of its twin."""
        generator = _global_on_chief()
        generator.state.assign(np.array(state))
        if self._global is not None:
            self._copy(generator, self._global)

    def _make(self, generator: keras.random.SeedGenerator) -> keras.random.SeedGenerator:
        strategy = self._strategy()
        assert strategy is not None
        if is_stranded(generator):
            _restart(generator)
        with strategy.outside_steps():
            # Keras numbers objects without a name, and saved models refer to these numbers.
            twin = keras.random.SeedGenerator(0, name="tfps_seed_generator")
            # An earlier twin may have had this id.
            self._common.pop(id(twin), None)
            self._copy(generator, twin)
        return twin

    def _copy(self, source: keras.random.SeedGenerator, target: keras.random.SeedGenerator, read: bool = False) -> None:
        """Copies the state of a generator to its twin, or back if `read`."""
        twin = source if read else target
        value = tuple(np.asarray(source.state.numpy()).tolist())
        if self._common.get(id(twin)) != value:
            target.state.assign(np.array(value))
            self._common[id(twin)] = value


_TWINS: "weakref.WeakKeyDictionary[ParameterServerStrategy, Twins]" = weakref.WeakKeyDictionary()


def twins_of(strategy: ParameterServerStrategy) -> Twins:
    """Returns the twins of a strategy."""
    if strategy not in _TWINS:
        _TWINS.setdefault(strategy, Twins(strategy))
    return _TWINS[strategy]


def draws_in_step() -> bool:
    """Whether what draws now is in a step that workers will run."""
    current = step.current()
    # An eager step runs on the chief, as in one process, and an export draws from what is saved with it.
    in_step = current is not None and not current.eager and not current.exported
    return in_step and current_strategy() is not None


def next_seed(
    stock: Callable[..., tf.Tensor], generator: keras.random.SeedGenerator, *args: object, **kwargs: object
) -> tf.Tensor:
    """Draws from a generator in a step: from the worker's copy of its state, or of the state of its twin."""
    strategy, current = current_strategy(), step.current()
    assert strategy is not None and current is not None
    if not isinstance(generator.state._value, StepVariable):
        generator = twins_of(strategy).twin_of(generator)
    if isinstance(generator.state._value, SeedVariable):
        # The model may not know this generator. Its step says so, see `ModelSteps`.
        current.drawn.append(generator.state._value)
    return stock(generator, *args, **kwargs)


def global_seed_generator(stock: Callable[[], keras.random.SeedGenerator]) -> keras.random.SeedGenerator:
    """Returns Keras's global generator in a scope: its state is on the chief all the same; in a step its twin."""
    # The state of a global generator that was made in the scope would end with the strategy.
    strategy = current_strategy()
    return twins_of(strategy).global_twin() if strategy is not None and draws_in_step() else _global_on_chief()


def _global_on_chief() -> keras.random.SeedGenerator:
    """Returns Keras's global generator. If there is none, or its state is lost, makes it on the chief."""
    if global_generator() is None or is_stranded(global_generator()):
        set_global_generator(_make_on_chief(None))
    return global_generator()


def is_stranded(generator: keras.random.SeedGenerator | None) -> bool:
    """Whether the state of a generator is lost: it was made before this process connected to a cluster."""
    # TensorFlow renames the device of the chief when it connects, and what was there before cannot be reached.
    value = None if generator is None else generator.state._value
    with tf.init_scope(), tf.device(None):
        connected = not devices.is_unconnected(tf.constant(0).device)
    return isinstance(value, tf.Variable) and devices.is_unconnected(value.device) and connected


def _restart(generator: keras.random.SeedGenerator) -> None:
    """Lets a generator whose state is lost begin again from its seed."""
    generator.state._value = _make_on_chief(generator._initial_seed).state._value


def _make_on_chief(seed: int | None) -> keras.random.SeedGenerator:
    """Makes a generator whose state is on the chief, outside any scope and any trace."""
    made: list[keras.random.SeedGenerator] = []
    # Scopes and traces belong to a thread, and a new thread is in none.
    thread = threading.Thread(target=lambda: made.append(keras.random.SeedGenerator(seed, name="seed_generator")))
    thread.start()
    thread.join()
    return made[0]


def op_seeds(stock: Callable[[int | None], tuple[int | None, int | None]], seed: int | None) -> tuple[int | None, ...]:
    """Returns the two seeds of an operation such as `tf.random.normal`; none in a step that several workers run."""
    # Called in any case: it counts the operations, and checks the settings.
    seeds = stock(seed)
    strategy = current_strategy()
    assert strategy is not None
    return (None, None) if strategy.num_workers > 1 and not config.is_op_determinism_enabled() else seeds
