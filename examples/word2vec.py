"""word2vec on parameter servers. It reads a text, trains word vectors, and compares them with people's judgement.

    python examples/word2vec.py                                  a cluster of processes on this machine
    tfps-launch --ps 2 --workers 2 examples/word2vec.py          the same, started from outside
    TF_CONFIG='...' python examples/word2vec.py                  one role of a cluster, on each of its machines

Skip-gram with negative sampling: a word's vector learns to tell the words that stand near it from words drawn at
random. Both tables (a word as a center, a word as a context) live on the parameter servers. Workers train in GEO mode:
a worker pulls the rows of a window of batches, trains all of the window, and pushes by how much the rows moved. Without
--data the text is a sample of Wikipedia that comes with gensim. Any text will do:

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

import tfps

WINDOW = 5  # words on each side that count as near


class Text:
    """A text as word ids, most frequent word first.

    Args:
        text: any text; words are runs of the letters a to z.
        min_count: rarer words are left out.
        threshold: words more frequent than this fraction of the text are thinned out, the more the more frequent.
    """

    def __init__(self, text: str, min_count: int = 5, threshold: float = 1e-3) -> None:
        found = re.findall("[a-z]+", text.lower())
        self.words = [word for word, count in collections.Counter(found).most_common() if count >= min_count]
        if not self.words:
            raise SystemExit(f"The text holds no word {min_count} times; it has {len(found)} words.")
        self.ids = {word: index for index, word in enumerate(self.words)}
        tokens = np.array([self.ids[word] for word in found if word in self.ids])
        self.counts = np.bincount(tokens)
        kept = tfps.text.keep_probabilities(self.counts, threshold)
        self.tokens = tokens[np.random.default_rng(0).random(len(tokens)) < kept[tokens]]  # [positions]


def wikipedia_sample() -> str:
    """The articles that come with gensim, without their markup."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki
    from gensim.test.utils import datapath

    with bz2.open(datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")) as file:
        return "\n".join(filter_wiki(text) for _, text, _ in extract_pages(file, filter_namespaces=("0",)))


def judged_pairs(path: str | None) -> list[tuple[str, str, float]]:
    """Pairs of words and how similar people found them; by default WordSim-353, which comes with gensim."""
    if path is None:
        from gensim.test.utils import datapath

        path = datapath("wordsim353.tsv")
    lines = pathlib.Path(path).read_text(encoding="utf-8").lower().splitlines()
    fields = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(first, second, float(score)) for first, second, score in fields]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of two rankings. Equal values get their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def report(text: Text, vectors: np.ndarray, judged: list[tuple[str, str, float]]) -> None:
    """Prints the nearest words of a few, and how well the vectors [words, dim] agree with people's scores."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in ("king", "music", "war", "science"):
        if word in text.ids:
            nearest = np.argsort(unit @ unit[text.ids[word]])[::-1][1:6]
            print(f"near {word + ':':9}", ", ".join(text.words[index] for index in nearest))
    known = [(text.ids[a], text.ids[b], score) for a, b, score in judged if a in text.ids and b in text.ids]
    if len(known) > 2:
        left, right, scores = map(np.array, zip(*known, strict=True))
        agreement = spearman(scores, np.sum(unit[left] * unit[right], axis=1))
        print(f"Spearman correlation with {len(known)} human judgements of similarity: {agreement:.3f}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="plain text (default: gensim's sample of Wikipedia)")
    parser.add_argument("--wordsim", metavar="FILE", help="word, word, score a line (default: WordSim-353 of gensim)")
    parser.add_argument("--output", metavar="FILE", help="save the vectors as text, in word2vec's format")
    parser.add_argument("--ps", type=int, default=2, help="parameter servers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers, without TF_CONFIG (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=1024, help="pairs a step (default %(default)s)")
    parser.add_argument("--dim", type=int, default=100, help="length of a vector (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.025, help="learning rate at first (default %(default)s)")
    parser.add_argument("--push-every", type=int, default=100, help="batches of a window (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Trains and reports."""
    args = parse_arguments()
    keras.utils.set_random_seed(1)
    cluster = None if os.environ.get("TF_CONFIG") else tfps.LocalCluster(num_ps=args.ps, num_workers=args.workers)
    strategy = tfps.ParameterServerStrategy(cluster)  # in a worker or a parameter server this line serves to the end

    text = Text(pathlib.Path(args.data).read_text(encoding="utf-8") if args.data else wikipedia_sample())
    steps = max(1, len(text.tokens) * (WINDOW + 1) // args.batch)  # an epoch: as many pairs as the text has
    print(f"{len(text.tokens):,} words of text, {len(text.words):,} different ones, {steps:,} steps an epoch")

    total = steps * args.epochs
    with strategy.scope():
        model = tfps.models.SkipGram(len(text.words), args.dim, negatives=5, counts=text.counts)
        rate = keras.optimizers.schedules.PolynomialDecay(args.rate, total, args.rate / 100)
        model.compile(tfps.optimizers.Geo(keras.optimizers.SGD(rate), push_every=args.push_every))
    data = tfps.text.neighbour_pairs(text.tokens, WINDOW, args.batch, total)
    model.fit(data, epochs=args.epochs, steps_per_epoch=steps)

    vectors = model.centers.get_weights()[0]
    report(text, vectors, judged_pairs(args.wordsim))
    print(strategy.plan.table())
    if args.output:
        rows = (f"{word} {' '.join(map(str, row))}" for word, row in zip(text.words, vectors.tolist(), strict=True))
        pathlib.Path(args.output).write_text("\n".join([f"{len(text.words)} {args.dim}", *rows]) + "\n")


if __name__ == "__main__":
    main()
