"""Trains a small model with the tfps that is installed, on a server and two workers. Fails without the C++ operations.

release.yml and test_wheel.py copy it to another folder, where `import tfps` cannot find the checkout.
"""

import keras
import numpy as np

import tfps
from tfps.ops import library


def main():
    """Trains, and checks that the table was on a server and has learned."""
    assert library.available(), f"{tfps.__file__} has no C++ operations"
    with tfps.ParameterServerStrategy() as strategy:
        with strategy.scope():
            model = keras.Sequential(
                [keras.layers.Embedding(500_000, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
            )
            model.compile(keras.optimizers.Adagrad(0.5), loss="mse")
        ids = np.random.default_rng(0).integers(0, 1_000, (4_000, 1))
        losses = model.fit(ids, ids % 2.0, batch_size=100, epochs=3, verbose=2).history["loss"]
        assert losses[-1] < losses[0] / 10, losses
        assert "500000, 4" in strategy.plan.table(), strategy.plan.table()
    print(f"tfps {tfps.__version__} trained with {keras.version()} of Keras")


if __name__ == "__main__":
    main()
