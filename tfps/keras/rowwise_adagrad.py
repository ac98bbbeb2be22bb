"""RowwiseAdagrad: Adagrad that remembers one number for each row of a table."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.keras.slot_scope import slot_scope


@keras.saving.register_keras_serializable("tfps")
class RowwiseAdagrad(keras.optimizers.Optimizer):
    """Adagrad with one accumulator for each row of a matrix, in place of one for each of its floats.

    A table of rows of 16 floats needs a sixteenth of Adagrad's slots, which are half of what it takes in memory. All
    floats of a row share the rate of the row, which falls with the mean of their squared gradients:

        a += mean(g * g);  w -= learning_rate * g / sqrt(a + epsilon)

    It is a plain Keras optimizer and trains without `tfps.ParameterServerStrategy` too. A row is the last dimension of
    a matrix: of a table's matrix the vector of one id, of a kernel the weights of one input. Variables that are no
    matrices (biases, say) are updated by Adagrad.

    Args:
        learning_rate: a number, or a schedule.
        initial_accumulator_value: of every accumulator, at least 0.
        epsilon: added under the root, above 0 so that a row whose gradients were all 0 does not divide by 0.
        weight_decay: as for every Keras optimizer.
        clipnorm: as for every Keras optimizer.
        clipvalue: as for every Keras optimizer.
        global_clipnorm: as for every Keras optimizer.
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`.

    Raises:
        ConfigError: `initial_accumulator_value` is below 0, or `epsilon` is not above 0.

    Source:
        FBGEMM (exact_rowwise_adagrad) and DLRM, Naumov et al. 2019; FBGEMM adds epsilon to the root.

    Example:
        >>> import keras, tfps
        >>> optimizer = tfps.optimizers.RowwiseAdagrad(0.1)
        >>> optimizer.build([keras.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])])
        >>> tuple(optimizer.variables[-1].shape)
        (3, 1)
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "rowwise_adagrad",
        **kwargs: Any,
    ) -> None:
        if not isinstance(initial_accumulator_value, int | float) or not initial_accumulator_value >= 0:
            raise ConfigError(
                f"`initial_accumulator_value` must be a number of at least 0. Received: {initial_accumulator_value!r}."
            )
        if not isinstance(epsilon, int | float) or not epsilon > 0:
            raise ConfigError(f"`epsilon` must be a number above 0. Received: {epsilon!r}.")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes an accumulator for each variable: [rows, 1] for a matrix, the shape of the variable for others."""
        if self.built:
            return
        super().build(variables)
        self._accumulators = [self._new_accumulator(variable) for variable in variables]

    def update_step(
        self, gradient: tf.Tensor | tf.IndexedSlices, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable, and its accumulator, by its gradient."""
        rate = keras.ops.cast(learning_rate, variable.dtype)
        accumulator = self._accumulators[self._get_variable_index(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, accumulator, rate)
            return
        gradient = keras.ops.cast(gradient, variable.dtype)
        squared = keras.ops.square(gradient)
        if len(variable.shape) == 2:
            squared = keras.ops.mean(squared, -1, keepdims=True)
        self.assign_add(accumulator, squared)
        self.assign_sub(variable, rate / keras.ops.sqrt(accumulator + self.epsilon) * gradient)

    def get_config(self) -> dict[str, Any]:
        """What makes the same optimizer again."""
        own = {"initial_accumulator_value": self.initial_accumulator_value, "epsilon": self.epsilon}
        return super().get_config() | own

    def _new_accumulator(self, variable: keras.Variable) -> keras.Variable:
        shape = (variable.shape[0], 1) if len(variable.shape) == 2 else variable.shape
        initial = keras.initializers.Constant(self.initial_accumulator_value)
        with slot_scope(self, variable):
            name = f"{variable.path.replace('/', '_')}_accumulator"
            return self.add_variable(shape, initial, variable.dtype, name=name)

    def _update_rows(
        self, gradient: tf.IndexedSlices, variable: keras.Variable, accumulator: keras.Variable, rate: tf.Tensor
    ) -> None:
        """The same for the gradient of an embedding: a row without a gradient would not change anyway."""
        # The gradients of an id that comes twice are summed before they are squared, as a dense gradient has them.
        ids, places = tf.unique(gradient.indices)
        rows = tf.math.unsorted_segment_sum(tf.cast(gradient.values, variable.dtype), places, tf.size(ids))
        self.assign_add(accumulator, tf.IndexedSlices(tf.reduce_mean(tf.square(rows), -1, keepdims=True), ids))
        root = tf.sqrt(tf.gather(accumulator.value, ids) + self.epsilon)
        self.assign_sub(variable, tf.IndexedSlices(rate / root * rows, ids))
