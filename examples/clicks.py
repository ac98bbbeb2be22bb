"""Code that all click models share: reading files, parsing the command line, training and reporting.

Every cell of a line is hashed to a row of one large embedding table. The model also gets the numeric cells as numbers.
The workers read the files, so every worker needs access to them.

Formats: `criteo` (the Criteo click logs: label, 13 integers and 26 categories, separated by tabs) and `adult` (the UCI
census data, separated by commas, with the label in the last column). An empty cell or "?" is a missing value.
"""

import argparse
import dataclasses
import functools
import glob
from collections.abc import Callable

import cluster
import keras
import tensorflow as tf

HELD_OUT = 10  # every tenth line is held out
SHUFFLED = 20_000  # lines in the shuffle buffer
BUCKETS = 4  # hash buckets per unit of a number's logarithm


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

    They consist of TensorFlow operations only, so the workers can run them.
    """
    files = sorted(glob.glob(args.data))
    if not files:
        raise SystemExit(f"--data must match at least one file. Received: {args.data!r}, which matches none.")
    groups = tf.data.TextLineDataset(files).batch(HELD_OUT)
    # In each group of lines the first one is held out, so that both datasets cover the whole file.
    groups = groups.map(lambda lines: tf.boolean_mask(lines, tf.strings.length(lines) > 0))

    def batches(lines: tf.data.Dataset) -> tf.data.Dataset:
        read = functools.partial(parse, form=FORMATS[args.format], rows=args.rows)
        return lines.batch(args.batch).map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)

    training = groups.map(lambda lines: lines[1:]).unbatch().shuffle(SHUFFLED)
    return batches(training), batches(groups.map(lambda lines: lines[:1]).unbatch())


def inputs(form: Format) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the inputs of a model: ids [batch, inputs] and numbers [batch, numbers]."""
    return keras.Input((form.inputs,), dtype="int64"), keras.Input((len(form.numbers),))


def tower(features: keras.KerasTensor, hidden: list[int]) -> keras.KerasTensor:
    """Applies a stack of dense layers with `hidden` units."""
    for units in hidden:
        features = keras.layers.Dense(units, activation="relu")(features)
    return features


def parse_arguments(description: str) -> argparse.Namespace:
    """Parses the command line of a click model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FILE", help="a file of rows, or a pattern ('day_*.tsv')")
    parser.add_argument("--format", choices=FORMATS, default="criteo", help="default %(default)s")
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
    strategy = cluster.make_strategy(args)
    training, held_out = datasets(args)
    with strategy.scope():
        model = build_model(FORMATS[args.format], args.rows, args.dim, args.hidden)
        model.compile(keras.optimizers.Adagrad(args.rate), loss="binary_crossentropy", metrics=["auc"])
    model.fit(training, epochs=args.epochs, validation_data=held_out)

    learned = model.evaluate(held_out, return_dict=True, verbose=0)
    print(f"on held-out rows: AUC {learned['auc']:.4f}, loss {learned['loss']:.4f}")
    print(strategy.plan.table())
