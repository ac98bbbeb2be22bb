"""Texts from outside, broken at random: each parser returns a value or raises an error of tfps, and soon. Seeded."""

import json
import random
import resource
import time

import pytest

from tfps.cluster import tf_config
from tfps.cluster.environments import mpi, slurm
from tfps.cluster.environments.ranks import read_integer
from tfps.cluster.tls.stunnel_log import StunnelLog
from tfps.cluster.zygote_link import parse_events
from tfps.errors import TfpsError
from tfps.placement import Plan, plan
from tfps.placement.spec import VariableSpec

CLUSTER = {"chief": ["a:1"], "ps": ["[::1]:2", "b:3"], "worker": ["10.0.0.1:4"]}
TF_CONFIG = json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 0}, "rpc_layer": "grpc"})
EVENT = '{"event": "started", "group": 3, "job": "ps", "index": 0, "pid": 12, "address": "127.0.0.1:4711"}'
PLAN = plan(
    [VariableSpec("table", (1000, 8), "float32", is_table=True), VariableSpec("bias", (3,), "float32")], num_servers=2
).to_json()
LOG = "2026.11.30 03:06:09 LOG5[5]: Service [in] accepted connection from 10.0.0.9:55402"


def read_log(text):
    log = StunnelLog("ps 0", {})
    return [log.read(line) for line in text.split("\n")]


def read_size(text):
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        # The environment holds no text with a zero byte.
        patched.setenv("SLURM_STEP_NUM_TASKS", text.replace("\0", "").encode(errors="replace").decode())
        return read_integer("SLURM_STEP_NUM_TASKS", "SLURM", at_least=1)


PARSERS = {
    "TF_CONFIG": (tf_config.parse_tf_config, [TF_CONFIG]),
    "TF_CONFIG of workers": (tf_config.parse_cluster_of_workers, [TF_CONFIG]),
    "plan": (Plan.from_json, [PLAN]),
    "hostlist": (slurm.expand_nodes, ["gpu[08-10,12],login", "a[1-2]b[3-4]"]),
    "counts": (slurm.expand_counts, ["4(x2),1"]),
    "size": (read_size, ["12"]),
    "addresses": (lambda text: mpi.parse_addresses(text, 3), ['["a:1", "b:2", "c:3"]']),
    "reports": (lambda text: parse_events(text.encode(errors="replace")), [EVENT, '{"event": "ready"}']),
    "stunnel": (
        read_log,
        [LOG, f"{LOG}\n2026 LOG4[5]: CERT: Subject checks failed\n2026 LOG5[5]: Connection reset: 0"],
    ),
}
"""What reads texts from outside, and texts that are right."""

STRANGE = [
    "",
    "\0",
    "\ud800",
    "٣",
    "-1",
    "99999999999",
    "9" * 5000,
    "1-999999999",
    "1(x999999999)",
    "[",
    "]" * 9,
    "{",
    '"',
]
STRANGE += [
    "[" * 50_000,
    '{"a":' * 5_000,
    "NaN",
    "1e999",
    "null",
    "[[]]",
    "a" * 70_000,
    ",",
    ":",
    "[0-9][0-9][0-9]" * 9,
]
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a:0",
    "a:99999",
    [],
    {},
    [[]],
    ["a:1"] * 3,
]


def break_text(text, rng):
    """Removes, repeats, replaces or adds characters."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice([0, 1, 1, 5, 30]))
        middle = rng.choice(["", text[start:end] * 2, chr(rng.randint(0, 255)), rng.choice(STRANGE)])
        text = text[:start] + middle + text[end:]
    return text


def break_value(value, rng):
    """Replaces one part of a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        changed = {other: inner for other, inner in value.items() if other != key}
        kept = key if rng.random() < 0.8 else rng.choice(["", "x", "\ud800"])
        return changed if rng.random() < 0.1 else changed | {kept: break_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], break_value(value[index], rng), *value[index + rng.randint(0, 1) :]]
    return rng.choice(VALUES)


def broken_texts(texts, rng):
    for _ in range(1000):
        text = rng.choice(texts)
        yield break_text(text, rng)
        if text[0] in "{[" and text[-1] in "}]":
            yield json.dumps(break_value(json.loads(text), rng))
    yield from STRANGE


@pytest.fixture
def little_memory():
    """A text of some kilobytes must not take gigabytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", PARSERS)
def test_a_broken_text_is_refused_by_name_and_at_once(name, little_memory):
    parse, texts = PARSERS[name]
    for text in texts:
        parse(text)
    for text in broken_texts(texts, random.Random(name)):
        began = time.monotonic()
        try:
            parse(text)
        except TfpsError as error:
            assert str(error) and len(str(error)) < 5000, text[:200]
        # Otherwise the text that did it would not be shown.
        except Exception as error:
            raise AssertionError(f"{text[:200]!r} raised {error!r}"[:2000]) from error
        assert time.monotonic() - began < 5, text[:200]
