"""What a user may rely on: a list of names, each with a docstring and annotations. CHANGELOG.md tells what changes."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = {
    "tfps.callbacks": {"Checkpoint", "Dump", "Export", "FirstNaN", "Profile", "TensorBoard"},
    "tfps.serving": {"Follower"},
    "tfps.data": {"Hash", "files"},
    "tfps.checkpoint": {"rebalanced_plan", "restore", "save"},
    "tfps.admission": {"Admission", "Always", "Count", "Filter", "Probability"},
    "tfps.eviction": {"Eviction", "LeastFrequent", "LeastRecent", "Score", "SmallNorm", "Unseen"},
    "tfps.streaming": {
        *("CountWindows", "Files", "Kafka", "Planned", "Source", "TimeWindows"),
        *("Waiting", "Window", "WindowCheckpoint", "fit"),
    },
    "tfps": {
        "Hardware",
        "LocalCluster",
        "MirroredStrategy",
        "MultiWorkerMirroredStrategy",
        "OneDeviceStrategy",
        "ParameterServerStrategy",
        "__version__",
        "admission",
        "callbacks",
        "checkpoint",
        "choice",
        "choose_strategy",
        "data",
        "eviction",
        "explain_strategy",
        "layers",
        "metrics",
        "models",
        "nn",
        "optimizers",
        "plan",
        "serving",
        "streaming",
        "text",
    },
    "tfps.choice": {"Candidate", "Explanation", "Hardware", "Footprint", "StepCounts"},
    "tfps.layers": {"DynamicEmbedding", "DynamicEmbeddingBag", "EmbeddingBag", "fingerprint"},
    "tfps.metrics": {
        *("AUC", "Calibration", "ExactAUC", "GroupAUC", "LogLoss", "MeanReciprocalRank", "NDCG"),
        *("NormalizedEntropy", "PositiveNegativeRatio", "Progressive", "RecallAtK", "Sliced"),
    },
    "tfps.models": {"SkipGram"},
    "tfps.text": {"keep_probabilities", "neighbour_groups", "neighbour_pairs"},
    "tfps.optimizers": {"Geo", "RowwiseAdagrad", "Sync"},
    "tfps.nn": {"embedding_lookup", "embedding_lookup_sparse", "safe_embedding_lookup_sparse"},
    "tfps.errors": {
        "BufferLimitError",
        "CheckpointError",
        "CheckpointMismatchError",
        "ClusterError",
        "ClusterTimeoutError",
        "ConfigError",
        "DumpError",
        "ExportError",
        "ExportGapError",
        "IdRangeError",
        "InputFileError",
        "LabelError",
        "LibraryError",
        "NotFiniteError",
        "PlanError",
        "ServerLostError",
        "SourceError",
        "TaskDiedError",
        "TfpsError",
        "UnsupportedError",
    },
    "tfps.placement": {
        "Auto",
        "FixedShards",
        "GreedyBytes",
        "GreedyBytesAndTraffic",
        "IncrementalPlacer",
        "MaxBytes",
        "MinBytes",
        "Placement",
        "Plan",
        "RoundRobin",
        "Routing",
        "ServerLoad",
        "Shard",
        "VariableSpec",
        "advise",
        "plan",
    },
}
SIGNATURES = {
    "Hardware": "hosts cards card_bytes host_bytes cores bandwidth",
    "choose_strategy": "build_model batch_size inputs hardware",
    "explain_strategy": "build_model batch_size inputs hardware",
    "plan": "model num_ps variable_partitioner inputs batch_size balancer routing dense_tables_bytes "
    "embeddings_dtype slots_dtype",
    "LocalCluster": "num_ps num_workers start_timeout_s ps_threads worker_threads log_dir worker_devices",
    "ParameterServerStrategy": (
        "cluster variable_partitioner plan dense_exchange_every overlap_dense_exchange prefetch_lookups "
        "closure_timeout_s dense_tables_bytes repeated_ids dense devices_per_worker on_nan wire "
        "cache_rows max_staleness embeddings_dtype slots_dtype"
    ),
}
OF_THE_STRATEGY = {"check", "close", "num_servers", "num_workers", "plan", "repeated_ids", "worker_devices"}
# What the packages above ask of it; may change without notice.
INTERNAL = {
    "could_send_less",
    "host_of",
    "create",
    "dense_variables",
    "pool",
    "run_in_step",
    "server_pool",
    "share_batches",
    "outside_steps",
    "slots_of",
}
NOT_CALLED = {"__version__", "callbacks", "checkpoint", "choice", "layers", "models", "nn", "optimizers", "serving"}
NOT_CALLED |= {"admission", "data", "eviction", "metrics", "streaming", "text"}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in sorted(names - NOT_CALLED)]


def public_names(module):
    """`__all__` where there is one, else what the module itself defines."""
    listed = getattr(module, "__all__", None)
    return set(listed or (n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__))


def defined_here(owner):
    """The methods and properties that a class of ours defines, without what it inherits or what is generated for it."""
    tree = ast.parse(inspect.getsource(owner))
    names = {node.name for node in tree.body[0].body if isinstance(node, ast.FunctionDef)}
    return {name for name in names if not name.startswith("_") or name == "__init__"}


def functions_of(value):
    """Every function that stands for a public name: itself, or the methods of a class."""
    if not inspect.isclass(value):
        yield value
        return
    for name in defined_here(value):
        member = inspect.getattr_static(value, name)
        yield getattr(member, "fget", None) or getattr(member, "__func__", member)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_those_of_the_list(module):
    assert public_names(importlib.import_module(module)) == PUBLIC[module]


def test_every_public_name_can_be_had():
    names = {}
    exec("from tfps import *", names)
    assert PUBLIC["tfps"] <= set(names)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_public_names_are_documented_and_annotated(module, name):
    value = getattr(importlib.import_module(module), name)
    assert value.__doc__  # a class's own: unlike inspect.getdoc this does not look at its bases
    for function in functions_of(value):
        function = inspect.unwrap(function)
        assert function.__doc__ or function.__name__ == "__init__", function.__qualname__
        parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
        assert parameters | {"return"} <= set(function.__annotations__), function.__qualname__


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_keep_their_names_and_order(name):
    import tfps

    parameters = inspect.signature(getattr(tfps, name)).parameters
    assert list(parameters) == SIGNATURES[name].split()
    documented = inspect.getdoc(getattr(tfps, name)).split("Args:")[1]
    assert all(re.search(rf"^ +{parameter}: ", documented, re.MULTILINE) for parameter in parameters)


def test_what_the_strategy_adds_is_on_the_list():
    import tfps

    added = {name for name in vars(tfps.ParameterServerStrategy) if not name.startswith("_")}
    of_tensorflow = {name for base in tfps.ParameterServerStrategy.__mro__[1:] for name in vars(base)}
    assert added - of_tensorflow == OF_THE_STRATEGY | INTERNAL


def test_errors_have_one_base():
    import tfps.errors

    kinds = [getattr(tfps.errors, name) for name in PUBLIC["tfps.errors"]]
    assert all(issubclass(kind, tfps.errors.TfpsError) for kind in kinds)


def test_a_wrong_name_is_told_the_right_ones():
    import tfps

    with pytest.raises(AttributeError, match=r"'ParameterServer'.*LocalCluster.*ParameterServerStrategy"):
        tfps.ParameterServer  # noqa: B018


def test_importing_the_package_imports_no_tensorflow():
    code = "import sys, tfps; sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'numpy')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=240)


def test_the_package_says_that_it_is_typed_and_what_its_commands_are():
    assert (ROOT / "tfps" / "py.typed").is_file()
    scripts = dict(re.findall(r'^(tfps-\w+) = "([\w.:]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(scripts) == {"tfps-certs", "tfps-checkpoint", "tfps-dump", "tfps-launch", "tfps-plan", "tfps-top"}
    for target in scripts.values():
        module, function = target.split(":")
        command = importlib.import_module(module)
        assert not inspect.signature(getattr(command, function)).parameters
        assert typing.get_type_hints(command.main)["return"] is int
