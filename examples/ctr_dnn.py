"""A click model (CTR-DNN) on parameter servers. It trains on a click log and prints the AUC on held-out rows.

    python examples/ctr_dnn.py --data day_0.tsv                        a cluster of processes on this machine
    tfps-launch --ps 2 --workers 2 examples/ctr_dnn.py --data ...      the same, started from outside
    TF_CONFIG='...' python examples/ctr_dnn.py --data ...              one role of a cluster, on each of its machines

The model concatenates the embeddings and the numbers of a line and applies dense layers. The table is split over the
parameter servers, and a step transfers only the rows of its batch. clicks.py reads the files and lists their formats.
"""

import clicks
import keras


def build_model(form: clicks.Format, rows: int, dim: int, hidden: list[int]) -> keras.Model:
    """Builds a plain Keras model. The scope of the caller decides where its variables live."""
    ids, numbers = clicks.inputs(form)
    embedded = keras.layers.Embedding(rows, dim, name="features")(ids)
    features = keras.layers.Concatenate()([keras.layers.Flatten()(embedded), numbers])
    features = clicks.tower(features, hidden)
    return keras.Model([ids, numbers], keras.layers.Dense(1, activation="sigmoid")(features))


if __name__ == "__main__":
    clicks.main(__doc__, build_model)
