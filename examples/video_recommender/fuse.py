"""Fusing: what a user will watch and like, as one list that is not all alike.

A multi-task model with a gated mixture of experts (MMoE) foretells two things: that the user watches the film, and that
the user then likes it. One score is made of both and of the ranking model's, and maximal marginal relevance (MMR) takes
the best film that is not too much like those above it.

Sources: Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts"; Ma et
al. 2018, "Entire Space Multi-Task Model"; Carbonell and Goldstein 1998, "The Use of MMR".
"""

import keras
import numpy as np

from examples.video_recommender import rank

EXPERTS = 4
DIVERSITY = 0.1  # what a list loses of its score for films alike: 0 for nothing


def build_model(genres: int, table: rank.Table) -> tuple[keras.Model, keras.Model]:
    """Builds the multi-task model.

    What a user thinks of a film that was never watched is unknown. So the model is trained on `watch` and on `liked`,
    which is that the user watched and liked it, and is known of every row; it is a product.

    Returns:
        The model to train, whose outputs are `watch` and `liked`, and the model to serve, whose outputs are `watch` and
        `like`: the probability that the user likes the film once it is watched.
    """
    asked = rank.inputs(genres)
    rows = rank.pooled(asked, table(rank.DIM // 2, "fuse_films"))
    features = keras.layers.Concatenate()([*rows, asked["genres"], asked["numbers"]])
    experts = keras.layers.Dense(EXPERTS * 16, activation="relu", name="experts")(features)
    experts = keras.layers.Reshape((EXPERTS, 16))(experts)

    def task(name: str) -> keras.KerasTensor:
        """Returns the probability of a task, from its own mixture of the experts."""
        gate = keras.layers.Dense(EXPERTS, activation="softmax", name=f"{name}_gate")(features)
        mixed = keras.ops.sum(experts * keras.ops.expand_dims(gate, -1), axis=1)
        tower = keras.layers.Dense(16, activation="relu", name=f"{name}_tower")(mixed)
        return keras.layers.Dense(1, activation="sigmoid", name=name)(tower)

    watch, like = task("watch"), task("like")
    liked = keras.layers.Multiply(name="liked")([watch, like])
    model = keras.Model(asked, {"watch": watch, "liked": liked}, name="fuse")
    return model, keras.Model(asked, {"watch": watch, "like": like})


def fused_score(rank_watch: np.ndarray, watch: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Returns the logarithm of how probably a film is watched, by both models together, and liked."""
    return 0.5 * (np.log(rank_watch + 1e-9) + np.log(watch + 1e-9)) + np.log(like + 1e-9)


def diversify(scores: np.ndarray, genres: np.ndarray, count: int, diversity: float = DIVERSITY) -> np.ndarray:
    """Returns the indices of `count` films by maximal marginal relevance.

    Each place goes to the film with the largest score less `diversity` times its likeness to the most alike film above
    it. Scores are brought to a standard deviation of 1, and likeness is the cosine of the genres.

    Args:
        scores: of the candidates, [films].
        genres: their genres, [films, genres].
        count: the length of the list.
        diversity: the weight of likeness.
    """
    relevance = scores / max(float(np.std(scores)), 1e-9)
    units = genres / np.maximum(np.linalg.norm(genres, axis=1, keepdims=True), 1e-9)
    alike = np.zeros(len(scores))
    chosen: list[int] = []
    for _ in range(min(count, len(scores))):
        gains = relevance - diversity * alike
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        alike = np.maximum(alike, units @ units[chosen[-1]])
    return np.array(chosen, np.int64)
