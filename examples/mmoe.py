"""MMoE on parameter servers: two tasks, income and marriage, learned by one model from the census data.

    python examples/mmoe.py --data adult.data --rows 50000 --rate 0.2        a cluster of processes on this machine

Several small networks (experts) read the same features. Each task has a gate, which weighs the experts for each
example, and a tower of its own on the weighted mean. The tasks are those of the paper: does a person earn more than
50,000 dollars, and was he or she never married? So the marital status is not an input. There is one table of features
on the parameter servers, and a step transfers only the rows of its batch. clicks.py reads the file.

Source: Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts".
"""

import dataclasses
from collections.abc import Callable

import clicks
import cluster
import keras
import tensorflow as tf

EXPERTS = 8
TASKS = ("income", "never_married")
MARITAL = 5  # the cell with the marital status
FORM = clicks.FORMATS["adult"]
CATEGORIES = tuple(column for column in FORM.categories if column != MARITAL)


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(rows, dim, name="features")(ids))
    # The gates are linear: without a scale the largest number would choose the experts.
    features = keras.layers.Concatenate()([embedded, keras.layers.BatchNormalization()(numbers)])
    experts = keras.ops.stack([clicks.tower(features, hidden) for _ in range(EXPERTS)], axis=1)
    outputs = {}
    for task in TASKS:
        gate = keras.layers.Dense(EXPERTS, activation="softmax", name=f"{task}_gate")(features)
        mixed = keras.layers.Dot(axes=1)([gate, experts])
        outputs[task] = keras.layers.Dense(1, activation="sigmoid", name=task)(clicks.tower(mixed, [16]))
    return keras.Model([ids, numbers], outputs)


def split_tasks(rows: int) -> Callable:
    """Returns a function that makes the label of the second task of the marital status, and takes that from the ids."""
    place = len(FORM.numbers) + FORM.categories.index(MARITAL)
    # The cells of the file begin with a blank.
    never = tf.strings.to_hash_bucket_fast(f"{MARITAL}= Never-married", rows).numpy()

    def split(features: tuple, income: tf.Tensor) -> tuple:
        ids, numbers = features
        never_married = tf.cast(ids[:, place : place + 1] == never, tf.float32)
        others = tf.concat([ids[:, :place], ids[:, place + 1 :]], axis=1)
        return (others, numbers), {"income": income, "never_married": never_married}

    return split


def main() -> None:
    """Trains the model and prints the AUC of both tasks on held-out rows."""
    args = clicks.parse_arguments(__doc__, formats=["adult"])
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    # Ids that repeat in a batch count as in Keras, so that the model learns what it learns with --alone.
    strategy = cluster.make_strategy(args, repeated_ids="each")
    training, held_out = (part.map(split_tasks(args.rows)) for part in clicks.datasets(args))
    with strategy.scope():
        model = build_model(dataclasses.replace(FORM, categories=CATEGORIES), args.rows, args.dim, args.hidden)
        losses = dict.fromkeys(TASKS, "binary_crossentropy")
        metrics = {task: [keras.metrics.AUC(name="auc")] for task in TASKS}
        model.compile(keras.optimizers.Adagrad(args.rate), loss=losses, metrics=metrics)
    model.fit(training, epochs=args.epochs, validation_data=held_out)

    learned = model.evaluate(held_out, return_dict=True, verbose=0)
    print("on held-out rows:", ", ".join(f"AUC of {task} {learned[f'{task}_auc']:.4f}" for task in TASKS))
    cluster.print_plan(strategy)


if __name__ == "__main__":
    main()
