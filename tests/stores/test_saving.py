"""Checkpoints, exports and `tfps-checkpoint` on an S3 (moto) and a real NameNode (WebHDFS)."""

import fsspec
import keras
import numpy as np
import pytest

import tfps
from tests.saving.models import X, Y, assert_same, build, values
from tests.stores.fixtures import moto, namenode  # noqa: F401  # fixtures
from tfps.cli.checkpoint import main
from tfps.errors import CheckpointError
from tfps.serving import Follower


@pytest.fixture(params=["s3", "webhdfs"])
def url(request, tmp_path, monkeypatch):
    """A folder in a store; what opens it is in the settings of fsspec, as a user has them."""
    if request.param == "webhdfs":
        return f"{request.getfixturevalue('namenode').url}/{tmp_path.name}"
    store = request.getfixturevalue("moto")
    monkeypatch.setitem(fsspec.config.conf, "s3", store.options)
    return f"{store.url}/{tmp_path.name}"


@pytest.fixture(scope="module")
def trained(strategy):
    with strategy.scope():
        model = build()
    model.fit(X[:200], Y[:200], batch_size=100, verbose=0)
    return model


@pytest.fixture(scope="module")
def other(strategy):
    with strategy.scope():
        model = build()
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_checkpoint_comes_back_and_is_checked(trained, other, url, tmp_path, capsys):
    path = f"{url}/ckpt-1"
    tfps.checkpoint.save(trained, path)
    tfps.checkpoint.restore(other, path)
    assert_same(values(trained), values(other))
    with pytest.raises(CheckpointError, match="`path` must be new"):
        tfps.checkpoint.save(trained, path)
    with pytest.raises(CheckpointError, match=f"there is no complete checkpoint {url}/ckpt-9"):
        tfps.checkpoint.restore(other, f"{url}/ckpt-9")

    assert main(["ls", url]) == 0 and main(["verify", path]) == 0
    assert f"{path} is whole" in capsys.readouterr().out
    out = tmp_path / "values.safetensors"
    assert main(["export", path, "--format=safetensors", f"--to={out}"]) == 0
    found = pytest.importorskip("safetensors.numpy").load_file(out)
    wide = next(value for name, value in found.items() if name.endswith("wide/embeddings"))
    np.testing.assert_array_equal(wide, trained.get_layer("wide").get_weights()[0])

    files, inner = fsspec.core.url_to_fs(path)
    name = next(one for one in files.find(inner) if "rows-0" in one and ".data" in one)
    content = files.cat_file(name)
    files.pipe_file(name, content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["verify", path]) == 1
    assert "rows-0" in capsys.readouterr().err


@pytest.mark.slow
def test_training_goes_on_from_the_newest_and_old_ones_go(strategy, url):
    def fit(epochs):
        with strategy.scope():
            model = build()
        checkpoint = tfps.callbacks.Checkpoint(url, keep=2)
        model.fit(X[:600], Y[:600], batch_size=100, epochs=epochs, verbose=0, callbacks=[checkpoint])
        return model

    fit(3)
    files, path = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    kept = [name.rpartition("/")[2] for name in files.ls(path, detail=False)]
    assert len([name for name in kept if name.startswith("ckpt-")]) == 2 and "latest" in kept
    assert int(fit(4).optimizer.iterations) == 24


def test_exports_are_followed(strategy, url):
    with strategy.scope():
        model = keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(100, 4, name="items")])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    ids, targets = np.arange(64) % 100, np.ones((64, 4), "float32")
    model.fit(ids, targets, batch_size=16, verbose=0, callbacks=[tfps.callbacks.Export(url)])
    follower = Follower(url)
    assert follower.update()
    (table,) = follower.tables
    np.testing.assert_allclose(follower.lookup(table, np.arange(64))[0], model.get_weights()[0][:64])
