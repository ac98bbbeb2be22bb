"""RowwiseAdagrad: Adagrad with one accumulator per table row."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfps.errors import ConfigError
from tfps.keras.slot_scope import slot_scope


@keras.saving.register_keras_serializable("tfps")
class RowwiseAdagrad(keras.optimizers.Optimizer):
    """Adagrad with one accumulator for each row of a matrix instead of one for each float.

    Adagrad doubles the memory of a table. For rows of 16 floats, `RowwiseAdagrad` adds only a sixteenth. All floats of
    a row share one learning rate, which falls with the mean of their squared gradients:

        a += mean(g * g);  w -= learning_rate * g / sqrt(a + epsilon)

    It is a plain Keras optimizer and also trains without `tfps.ParameterServerStrategy`. A row of a table is the vector
    of one id; a row of a dense kernel is the weights of one input. Variables that are not matrices, such as biases, are
    updated as by Adagrad.

    Args:
        learning_rate: a number, or a schedule.
        initial_accumulator_value: the first value of every accumulator, at least 0.
        epsilon: added under the root; above 0, so that a row whose gradients were all 0 does not divide by 0.
        weight_decay: see `keras.optimizers.Optimizer`.
        clipnorm: see `keras.optimizers.Optimizer`.
        clipvalue: see `keras.optimizers.Optimizer`.
        global_clipnorm: see `keras.optimizers.Optimizer`.
        name: the name of the optimizer.
        **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ConfigError: `initial_accumulator_value` is below 0, or `epsilon` is not above 0.

    Source:
        FBGEMM (exact_rowwise_adagrad) and DLRM, Naumov et al. 2019. FBGEMM adds epsilon to the root, not under it.

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
        # `not x >= 0` also refuses NaN, which `x < 0` would let through.
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
        """Makes one accumulator per variable: [rows, 1] for a matrix, otherwise the shape of the variable."""
        if self.built:
            return
        super().build(variables)
        self._accumulators = [self._new_accumulator(variable) for variable in variables]

    def update_step(
        self, gradient: tf.Tensor | tf.IndexedSlices, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its accumulator."""
        # On parameter servers rows are updated by the C++ rule "rowwise_adagrad"; this serves all other variables.
        rate = keras.ops.cast(learning_rate, variable.dtype)
        accumulator = self._accumulators[self._get_variable_index(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, accumulator, rate)
            return
        gradient = keras.ops.cast(gradient, variable.dtype)
        squared = keras.ops.square(gradient)
        # One number per row, [rows, 1], which broadcasts over the floats of the row below.
        if len(variable.shape) == 2:
            squared = keras.ops.mean(squared, -1, keepdims=True)
        self.assign_add(accumulator, squared)
        self.assign_sub(variable, rate / keras.ops.sqrt(accumulator + self.epsilon) * gradient)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same optimizer again."""
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
        """Updates the rows of a sparse gradient. All other rows have a gradient of 0, which changes nothing."""
        # Gradients of a repeated id are summed before they are squared, so that the result equals the dense update.
        # For example ids [7, 7, 9] become ids [7, 9] and places [0, 0, 1].
        ids, places = tf.unique(gradient.indices)
        rows = tf.math.unsorted_segment_sum(tf.cast(gradient.values, variable.dtype), places, tf.size(ids))
        self.assign_add(accumulator, tf.IndexedSlices(tf.reduce_mean(tf.square(rows), -1, keepdims=True), ids))
        root = tf.sqrt(tf.gather(accumulator.value, ids) + self.epsilon)
        self.assign_sub(variable, tf.IndexedSlices(rate / root * rows, ids))
