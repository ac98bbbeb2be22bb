"""Trains the four stages, one after the other, and exports them to a folder.

Without a strategy the same models train in one process, on plain Keras tables; that is what the README compares with.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

import faiss
import keras
import numpy as np

import tfps
from examples import movielens
from examples.video_recommender import data, fuse, impressions, rank, recall

RECALL_EPOCHS, RECALL_BATCH, RECALL_RATE = 16, 512, 0.1
RANK_EPOCHS, RANK_BATCH, RANK_RATE = 2, 512, 0.05


class Trainer:
    """Trains on a cluster, or in this process.

    Args:
        strategy: the cluster; None for this process.
        folder: where the exported models go.
        ratings: what to train on.
        seed: what first values and the order of rows follow from.
    """

    def __init__(
        self,
        strategy: tfps.ParameterServerStrategy | None,
        folder: pathlib.Path,
        ratings: movielens.Ratings,
        seed: int = 1,
    ) -> None:
        self._strategy, self._folder, self._ratings, self._seed = strategy, folder, ratings, seed
        self._genres = ratings.genres.shape[1]
        self.seconds: dict[str, float] = {}

    def train(self) -> None:
        """Trains and exports all stages."""
        keras.utils.set_random_seed(self._seed)
        self._folder.mkdir(parents=True, exist_ok=True)
        data.save(self._ratings, self._folder / "ratings.npz")
        with self._timed("recall"):
            candidates = self._train_recall()
        with self._timed("candidates"):
            features, labels = impressions.make(self._ratings, data.Catalog(self._ratings), candidates, self._seed)
        builders = {"pre_rank": rank.build_pre_rank_model, "rank": rank.build_rank_model, "fuse": fuse.build_model}
        for name, build in builders.items():
            with self._timed(name):
                self._train_ranking(name, build, features, labels)

    def _train_recall(self) -> Callable[[data.Requests], np.ndarray]:
        """Trains and exports the towers; returns what finds candidates for requests, [requests, CANDIDATES]."""
        ratings = self._ratings
        with self._scope():
            model, users, films = recall.build_model(ratings.num_films, self._genres)
            # GEO: a worker trains a window of batches on its own copy of their rows, then pushes the differences.
            optimizer = keras.optimizers.Adagrad(RECALL_RATE)
            if self._strategy:
                optimizer = tfps.optimizers.Geo(optimizer, push_every=10)
            model.compile(optimizer, loss=recall.in_batch_loss)
        inputs, target = recall.rows(ratings)
        model.fit(inputs, target, batch_size=RECALL_BATCH, epochs=RECALL_EPOCHS, verbose=0)
        every = [np.arange(ratings.num_films)[:, np.newaxis], ratings.genres]
        index = recall.make_index(films.predict(every, batch_size=1024, verbose=0))
        faiss.write_index(index, str(self._folder / "films.index"))
        self._export(users, "users")

        def candidates(asked: data.Requests) -> np.ndarray:
            vectors = users.predict([asked.history, asked.stars], batch_size=4096, verbose=0)
            return recall.search(index, vectors, list(asked.history))

        return candidates

    def _train_ranking(self, name: str, build: Callable, features: dict, labels: dict) -> None:
        """Trains and exports a model that ranks."""
        with self._scope():
            model, served = build(self._genres, self._table)
            losses = dict.fromkeys(model.output_names, "binary_crossentropy")
            model.compile(keras.optimizers.Adagrad(RANK_RATE), loss=losses)
        tasks = {task: labels[task] for task in losses}
        model.fit(features, tasks, batch_size=RANK_BATCH, epochs=RANK_EPOCHS, verbose=0)
        self._export(served, name)

    def _table(self, dim: int, name: str) -> keras.layers.Layer:
        """Returns a growing table on the servers, or a matrix in this process."""
        if self._strategy:
            return tfps.layers.DynamicEmbedding(dim, name=name)
        return keras.layers.Embedding(self._ratings.num_films, dim, name=name)

    def _export(self, model: keras.Model, name: str) -> None:
        """Writes a SavedModel, which TensorFlow serves without tfps."""
        model.export(str(self._folder / name), verbose=False)

    def _scope(self) -> contextlib.AbstractContextManager:
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began_s
        print(f"{stage}: {self.seconds[stage]:.0f} s", flush=True)
