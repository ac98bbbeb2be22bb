"""Code that all click models share: reading files, parsing the command line, training and reporting.

Every cell of a line is hashed to a row of one large embedding table. The model also gets the numeric cells as numbers.
The workers read the files, so every worker needs access to them.

Formats: `criteo` (the Criteo click logs: label, 13 integers and 26 categories, separated by tabs) and `adult` (the UCI
census data, separated by commas, with the label in the last column). An empty cell is a missing value.
"""

import argparse
import dataclasses
import functools
import glob
import math
from collections.abc import Callable, Sequence

import cluster
import keras
import numpy as np
import tensorflow as tf

import tfps

HELD_OUT = 10  # about every tenth line is held out
SHUFFLED = 20_000  # lines in the shuffle buffer
GROUP = 16  # lines that the shuffle moves together
RANGE_BYTES = 1 << 20  # what a worker reads at a time
BUCKETS = 4  # hash buckets per unit of a number's logarithm
LARGEST = 400  # no float32 has a larger bucket


@dataclasses.dataclass(frozen=True)
class Format:
    """The columns of a line.

    Args:
        separator: the character between cells.
        label: the index of the cell with the label.
        numbers: the indices of the cells with numbers.
        categories: the indices of the cells with words.
    """

    separator: str
    label: int
    numbers: tuple[int, ...]
    categories: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Returns the number of cells in a line."""
        return 1 + self.inputs

    @property
    def inputs(self) -> int:
        """Returns the number of cells that the model gets."""
        return len(self.numbers) + len(self.categories)


FORMATS = {
    "criteo": Format("\t", 0, tuple(range(1, 14)), tuple(range(14, 40))),
    "adult": Format(",", 14, (0, 2, 4, 10, 11, 12), (1, 3, 5, 6, 7, 8, 9, 13)),
}


def parse(lines: tf.Tensor, form: Format, rows: int) -> tuple:
    """Parses lines [batch] into ids [batch, inputs] below `rows`, numbers [batch, numbers] and labels [batch, 1]."""
    cells = tf.io.decode_csv(lines, [[""]] * form.columns, field_delim=form.separator, use_quote_delim=False)
    cells = tf.strings.strip(tf.stack(cells, axis=1))
    numbers, buckets = read_numbers(tf.gather(cells, form.numbers, axis=1))
    words = tf.concat([buckets, tf.gather(cells, form.categories, axis=1)], axis=1)
    names = tf.constant([f"{column}=" for column in (*form.numbers, *form.categories)])
    # The hash is of "3=ab" and not of "ab", because the same word in two columns is two features.
    ids = tf.strings.to_hash_bucket_fast(names + words, rows)
    labels = tf.strings.regex_full_match(cells[:, form.label], r"1|>50K\.?")
    return (ids, numbers), tf.cast(labels, tf.float32)[:, tf.newaxis]


def read_numbers(cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads numbers on a signed logarithmic scale, and as words for hashing. Missing values are 0 and "missing"."""
    missing = tf.strings.regex_full_match(cells, r"\??")
    values = tf.strings.to_number(tf.where(missing, "0", cells))
    scaled = tf.sign(values) * tf.math.log1p(tf.abs(values))
    buckets = tf.strings.as_string(tf.cast(tf.floor(scaled * BUCKETS), tf.int32))
    return scaled, tf.where(missing, "missing", buckets)


def datasets(args: argparse.Namespace) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Returns datasets of training batches and of held-out batches.

    The workers read ranges of the files and parse them by the C++ ops of tfps. `parse` above does the same with
    TensorFlow's ops, but removes blanks around words.
    """
    if "://" not in args.data and not glob.glob(args.data):
        raise SystemExit(f"--data must match at least one file. Received: {args.data!r}, which matches none.")
    form = FORMATS[args.format]
    # A category is hashed with the number of its column in front of it, as in `parse`.
    columns: dict[str, object] = {str(n): tfps.data.Hash(args.rows, prefix=f"{n}=") for n in form.categories}
    columns |= {str(n): math.nan for n in form.numbers} | {str(form.label): ""}
    read = functools.partial(
        tfps.data.files,
        args.data,
        "csv" if form.separator == "," else "tsv",
        columns={str(n): columns[str(n)] for n in range(form.columns)},
        stack={"categories": [str(n) for n in form.categories], "numbers": [str(n) for n in form.numbers]},
        label=str(form.label),
        batch_size=args.batch,
        range_bytes=RANGE_BYTES,
    )
    make = functools.partial(features, number_ids=hash_numbers(form, args.rows))

    def part(lines: tf.data.Dataset, is_held_out: bool) -> tf.data.Dataset:
        chosen = lines.map(lambda *batch: choose(batch, is_held_out), num_parallel_calls=2)
        return chosen.rebatch(args.batch).map(make).prefetch(4)

    return part(read(shuffle=SHUFFLED, shuffle_group=GROUP), False), part(read(), True)


def features(columns: dict[str, tf.Tensor], label: tf.Tensor, number_ids: np.ndarray) -> tuple:
    """Makes of the columns of a batch what `parse` makes of its lines."""
    missing = tf.math.is_nan(columns["numbers"])
    values = tf.where(missing, 0.0, columns["numbers"])
    scaled = tf.sign(values) * tf.math.log1p(tf.abs(values))
    buckets = tf.where(missing, LARGEST + 1, tf.cast(tf.floor(scaled * BUCKETS), tf.int32)) + LARGEST
    # The hashes of all buckets of a number are known, so a batch looks them up.
    width = number_ids.shape[1]
    ids = tf.gather(tf.reshape(number_ids, [-1]), buckets + tf.range(number_ids.shape[0]) * width)
    labels = tf.strings.regex_full_match(label, r"\s*(1|>50K\.?)\s*")
    return (tf.concat([ids, columns["categories"]], axis=1), scaled), tf.cast(labels, tf.float32)[:, tf.newaxis]


def hash_numbers(form: Format, rows: int) -> np.ndarray:
    """Returns the ids of each number's buckets, from -LARGEST to LARGEST and the missing one, [numbers, buckets]."""
    buckets = [*map(str, range(-LARGEST, LARGEST + 1)), "missing"]
    names = [[f"{column}={bucket}" for bucket in buckets] for column in form.numbers]
    return tf.strings.to_hash_bucket_fast(names, rows).numpy()


def choose(batch: tuple, is_held_out: bool) -> tuple:
    """Returns the rows of a batch that are held out, or the others. What a row has decides, whoever reads it."""
    columns, _ = batch
    # Numbers as they were read: the last bit of a logarithm depends on the place in the batch.
    numbers = tf.where(tf.math.is_nan(columns["numbers"]), -1.0, columns["numbers"])
    bits = tf.cast(tf.bitcast(numbers, tf.int32), tf.int64)
    own = tf.reduce_sum(columns["categories"], axis=1) + tf.reduce_sum(bits, axis=1)
    chosen = (tf.strings.to_hash_bucket_fast(tf.strings.as_string(own), HELD_OUT) == 0) == is_held_out
    return tf.nest.map_structure(lambda values: tf.boolean_mask(values, chosen), batch)


def inputs(form: Format) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the inputs of a model: ids [batch, inputs] and numbers [batch, numbers]."""
    return keras.Input((form.inputs,), dtype="int64"), keras.Input((len(form.numbers),))


def tower(features: keras.KerasTensor, hidden: list[int]) -> keras.KerasTensor:
    """Applies a stack of dense layers with `hidden` units."""
    for units in hidden:
        features = keras.layers.Dense(units, activation="relu")(features)
    return features


def parse_arguments(description: str, formats: Sequence[str] = tuple(FORMATS)) -> argparse.Namespace:
    """Parses the command line of a click model that reads some of the formats."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="a file of rows, or a pattern ('day_*.tsv')")
    parser.add_argument("--format", choices=formats, default=formats[0], help="default %(default)s")
    cluster.add_arguments(parser)
    parser.add_argument("--epochs", type=int, default=4, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=256, help="rows per step (default %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default %(default)s)")
    parser.add_argument("--dim", type=int, default=8, help="floats per row of the table (default %(default)s)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[64], help="units of the dense layers (default 64)")
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate of Adagrad (default %(default)s)")
    return parser.parse_args()


def main(description: str, build_model: Callable[[Format, int, int, list[int]], keras.Model]) -> None:
    """Trains a click model and prints its AUC and loss on held-out rows.

    Args:
        description: the help text of the command.
        build_model: takes the format, the number of table rows, the floats per row and the dense units; returns the
            model.
    """
    args = parse_arguments(description)
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    # Ids that repeat in a batch count as in Keras, so that the model learns what it learns with --alone.
    strategy = cluster.make_strategy(args, repeated_ids="each")
    training, held_out = datasets(args)
    with strategy.scope():
        model = build_model(FORMATS[args.format], args.rows, args.dim, args.hidden)
        model.compile(keras.optimizers.Adagrad(args.rate), loss="binary_crossentropy", metrics=["auc", "accuracy"])
    model.fit(training, epochs=args.epochs, validation_data=held_out)

    learned = model.evaluate(held_out, return_dict=True, verbose=0)
    figures = [
        f"{title} {learned[name]:.4f}" for title, name in (("AUC", "auc"), ("accuracy", "accuracy"), ("loss", "loss"))
    ]
    print("on held-out rows:", ", ".join(figures))
    cluster.print_plan(strategy)
