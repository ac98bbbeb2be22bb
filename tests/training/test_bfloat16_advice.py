"""One line a program: if the workers limit a float32 model and all of their CPUs have bfloat16."""

import logging
import time

import keras
import numpy as np
import pytest

from tfps.cluster.cpu_features import bfloat16_flags
from tfps.placement.bottleneck import Verdict
from tfps.training import bfloat16_advice, first_steps

CPUINFO = "processor\t: 0\nflags\t\t: fpu {}\n"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(bfloat16_advice, "_SAID", set())


@pytest.fixture
def remote(strategy, monkeypatch):
    """Makes the workers those of other machines, with the given flags of their CPUs."""
    monkeypatch.setattr(strategy, "cluster", None)

    def with_flags(*flags):
        texts = [CPUINFO.format(one) for one in flags]
        monkeypatch.setattr(bfloat16_advice, "read_files", lambda places, names, lines: texts)

    return with_flags


def lines(caplog):
    return [record.getMessage() for record in caplog.records if "mixed_bfloat16" in record.getMessage()]


def test_it_is_said_once_and_names_the_best_flag(strategy, remote, caplog):
    remote("avx512_bf16 amx_bf16", "amx_bf16 avx512_bf16")
    with caplog.at_level(logging.INFO, "tfps"):
        bfloat16_advice.advise(strategy)
        bfloat16_advice.advise(strategy)
    (line,) = lines(caplog)
    assert "have amx_bf16" in line and 'keras.mixed_precision.set_global_policy("mixed_bfloat16")' in line


def test_one_worker_without_the_flag_is_enough_to_say_nothing(strategy, remote, caplog):
    remote("avx512_bf16", "avx512f")
    with caplog.at_level(logging.INFO, "tfps"):
        bfloat16_advice.advise(strategy)
    assert not lines(caplog)
    remote("avx512_bf16 amx_bf16", "avx512_bf16")
    assert bfloat16_advice.worker_flags(strategy) == ["avx512_bf16"]


def test_a_graph_reads_what_this_machine_reads(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "cluster", None)
    assert bfloat16_advice.worker_flags(strategy) == bfloat16_flags()


def test_workers_that_do_not_answer_are_not_waited_for(strategy, monkeypatch):
    monkeypatch.setattr(strategy, "cluster", None)
    monkeypatch.setattr(bfloat16_advice, "_LIMIT_S", 0.1)
    monkeypatch.setattr(bfloat16_advice, "read_files", lambda *args: time.sleep(2))
    assert bfloat16_advice.worker_flags(strategy) == []


@pytest.mark.parametrize(
    ("limit", "policy", "said"),
    [("workers", "float32", 1), ("servers", "float32", 0), ("workers", "mixed_bfloat16", 0)],
)
def test_a_fit_says_it_if_workers_limit_a_float32_model(strategy, monkeypatch, no_young, caplog, limit, policy, said):
    monkeypatch.setattr(bfloat16_advice, "bfloat16_flags", lambda: ["avx512_bf16"])
    monkeypatch.setattr(first_steps, "_SECONDS", 0.0)
    monkeypatch.setattr(first_steps, "judge", lambda seen: Verdict(limit, "They are the bottleneck."))
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile("sgd", "mse")
    finally:
        keras.config.set_dtype_policy("float32")
    with caplog.at_level(logging.INFO, "tfps"):
        model.fit(np.ones((64 * 100, 4)), np.ones(64 * 100), batch_size=64, verbose=0)
    assert len(lines(caplog)) == said
    assert any("bottleneck" in record.getMessage() for record in caplog.records)
