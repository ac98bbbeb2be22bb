"""word2vec on parameter servers. It trains word vectors on a text and compares them with human judgements.

    python examples/word2vec.py                                  a cluster of processes on this machine
    tfps-launch --ps 2 --workers 2 examples/word2vec.py          the same, started from outside
    TF_CONFIG='...' python examples/word2vec.py                  one role of a cluster, on each of its machines

Skip-gram with negative sampling: the vector of a word learns to tell the words near it from random words. Both tables
(words as centers, words as contexts) live on the parameter servers. The workers train in GEO mode: a worker pulls the
rows of a window of batches, trains the whole window, and pushes the changes of the rows. The words around a word share
its random words, which makes training several times as fast; with --pairs each pair has its own. Without --data the
text is a sample of Wikipedia that comes with gensim. Any other text works, too:

    python examples/word2vec.py --data book.txt --output vectors.txt
"""

import argparse
import bz2
import collections
import os
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

import tfps

WINDOW = 5  # words on each side that count as neighbours


class Text:
    """A text as word ids, most frequent word first.

    Args:
        text: any text; words are runs of the letters a to z.
        min_count: words that occur less often are left out.
        threshold: words that make up more than about this fraction of the text are to be dropped at random, frequent
            words more often.
    """

    def __init__(self, text: str, min_count: int = 5, threshold: float = 1e-3) -> None:
        all_words = re.findall("[a-z]+", text.lower())
        self.words = [word for word, count in collections.Counter(all_words).most_common() if count >= min_count]
        if not self.words:
            raise SystemExit(f"No word of the text occurs {min_count} times. The text has {len(all_words)} words.")
        self.ids = {word: index for index, word in enumerate(self.words)}
        tokens = np.array([self.ids[word] for word in all_words if word in self.ids])
        self.tokens = tokens  # [positions]
        self.counts = np.bincount(tokens)
        self.keep = tfps.text.keep_probabilities(self.counts, threshold)  # [words]


def wikipedia_sample() -> str:
    """Returns the Wikipedia articles that come with gensim, without markup."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki
    from gensim.test.utils import datapath

    with bz2.open(datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")) as file:
        return "\n".join(filter_wiki(text) for _, text, _ in extract_pages(file, filter_namespaces=("0",)))


def judged_pairs(path: str | None) -> list[tuple[str, str, float]]:
    """Reads pairs of words with human similarity scores. The default is WordSim-353, which comes with gensim."""
    if path is None:
        from gensim.test.utils import datapath

        path = datapath("wordsim353.tsv")
    lines = pathlib.Path(path).read_text(encoding="utf-8").lower().splitlines()
    fields = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(first, second, float(score)) for first, second, score in fields]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the rank correlation of two vectors. Equal values get their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def report(text: Text, vectors: np.ndarray, judged: list[tuple[str, str, float]]) -> None:
    """Prints the neighbours of a few words, and how well the vectors [words, dim] agree with human scores."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in ("king", "music", "war", "science"):
        if word in text.ids:
            nearest = np.argsort(unit @ unit[text.ids[word]])[::-1][1:6]
            print(f"near {word + ':':9}", ", ".join(text.words[index] for index in nearest))
    known = [(text.ids[a], text.ids[b], score) for a, b, score in judged if a in text.ids and b in text.ids]
    if len(known) > 2:
        left, right, scores = map(np.array, zip(*known, strict=True))
        agreement = spearman(scores, np.sum(unit[left] * unit[right], axis=1))
        print(
            f"Spearman correlation with {len(known)} human judgements of similarity: {agreement:.3f} (chance gives 0)"
        )


def separate_pairs(centers: tf.Tensor, contexts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns groups, [n, m] and [n], into pairs of their own, [p] each."""
    is_pair = centers >= 0
    return centers[is_pair], tf.broadcast_to(contexts[:, tf.newaxis], tf.shape(centers))[is_pair]


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="plain text (default: gensim's sample of Wikipedia)")
    parser.add_argument("--wordsim", metavar="FILE", help="lines of word, word, score (default: WordSim-353 of gensim)")
    parser.add_argument("--output", metavar="FILE", help="save the vectors as text, in word2vec's format")
    parser.add_argument("--ps", type=int, default=2, help="parameter servers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=1024, help="words of text per step (default %(default)s)")
    parser.add_argument("--pairs", action="store_true", help="draw negatives for each pair, as word2vec does")
    parser.add_argument("--dim", type=int, default=100, help="length of a vector (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.025, help="initial learning rate (default %(default)s)")
    parser.add_argument("--push-every", type=int, default=20, help="batches in a window (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Trains the vectors and reports on them."""
    args = parse_arguments()
    keras.utils.set_random_seed(1)
    cluster = None if os.environ.get("TF_CONFIG") else tfps.LocalCluster(num_ps=args.ps, num_workers=args.workers)
    # In a worker or a parameter server this call serves until the chief is done, and does not return.
    strategy = tfps.ParameterServerStrategy(cluster)

    text = Text(pathlib.Path(args.data).read_text(encoding="utf-8") if args.data else wikipedia_sample())
    steps = -(-len(text.tokens) // args.batch)
    print(f"{len(text.tokens):,} words of text, {len(text.words):,} different ones, {steps:,} steps per epoch")
    print(
        f"A worker trains {args.push_every} batches on a copy of their rows. geo_delta_norm is how far the rows moved,"
    )
    print("geo_conflicts the fraction of them that another worker moved meanwhile.")

    total = steps * args.epochs
    with strategy.scope():
        model = tfps.models.SkipGram(len(text.words), args.dim, negatives=5, counts=text.counts)
        rate = keras.optimizers.schedules.PolynomialDecay(args.rate, total, args.rate / 100)
        model.compile(tfps.optimizers.Geo(keras.optimizers.SGD(rate), push_every=args.push_every))
    data = tfps.text.neighbour_groups(text.tokens, WINDOW, args.batch, total, keep=text.keep)
    if args.pairs:
        data = data.map(separate_pairs)
    model.fit(data, epochs=args.epochs, steps_per_epoch=steps)

    vectors = model.centers.get_weights()[0]
    print("\nWhat was learned")
    report(text, vectors, judged_pairs(args.wordsim))
    print("\nWhere the rows live")
    print(strategy.plan.table())
    if args.output:
        rows = (f"{word} {' '.join(map(str, row))}" for word, row in zip(text.words, vectors.tolist(), strict=True))
        pathlib.Path(args.output).write_text("\n".join([f"{len(text.words)} {args.dim}", *rows]) + "\n")


if __name__ == "__main__":
    main()
