"""What the documents say is so: their code runs, their commands parse, their tables are the code's."""

import doctest
import importlib
import inspect
import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CHANGELOG.md", *PAGES]
# The tables of the last model of a document, where they are not one.
TABLES = {"docs/tutorial.md": 2}
SLOW = {"docs/tutorial.md", "docs/modes.md"}
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "tfps").rglob("*.py")
    if ">>>" in path.read_text()
)


def text_of(document):
    return (ROOT / document).read_text()


def blocks(document, language):
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL)


def table(document, *header):
    """The rows of the table that has this header: the cells of each, without the marks of code."""
    lines = text_of(document).splitlines()
    start = lines.index(f"| {' | '.join(header)} |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def code(cell):
    """What a cell names in code marks, its own stripped ones included."""
    return [name for name in re.split(r"[`, ]+", cell) if name]


# Examples.


def with_python():
    """The documents with Python, each a case; those that train several models are slow."""
    for document in DOCUMENTS:
        if blocks(document, "python"):
            yield pytest.param(document, marks=[pytest.mark.slow] if document in SLOW else [])


@pytest.mark.parametrize("document", with_python())
def test_python_of_documents_runs(document, strategy, monkeypatch):
    import tfps
    from tfps.embedding.table import Table
    from tfps.keras.replicas.tables import is_table

    monkeypatch.setattr(tfps, "ParameterServerStrategy", lambda cluster=None, dense_tables_bytes=0: strategy)
    # Whatever the machine would suit, the strategy of the tests.
    monkeypatch.setattr(tfps, "choose_strategy", lambda build_model, batch_size: strategy, raising=False)
    names = {"__name__": document}
    for block in blocks(document, "python"):
        exec(compile(block, document, "exec"), names)
    tables = [one for one in names["model"].variables if isinstance(one._value, Table) or is_table(one)]
    wanted = TABLES.get(document, 1)
    assert len(tables) == wanted, "an Embedding must be a table, or all of it crosses in every closure"


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if blocks(document, "py")])
def test_programs_of_other_libraries_can_be_read(document):
    """Blocks marked `py` instead of `python` are not run here: they need packages that tfps replaces."""
    for block in blocks(document, "py"):
        compile(block, document, "exec")


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_of_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


# Commands.


def commands():
    return [line for document in DOCUMENTS for block in blocks(document, "sh") for line in block.splitlines() if line]


def test_make_has_the_targets_that_are_named():
    text = "".join(map(text_of, DOCUMENTS))
    named = set(re.findall(r"\bmake ([a-z-]+)\b(?=`|  )", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "test-versions"} <= named <= targets


def test_the_terminals_make_one_cluster():
    from tfps.cluster.tf_config import parse_cluster_of_workers, parse_tf_config

    lines = [line.replace("python train.py", "printenv TF_CONFIG") for line in commands() if "TF_CONFIG=" in line]
    texts = [subprocess.check_output(["sh", "-c", line], text=True) for line in lines]
    tasks = [parse_tf_config(text) for text in texts if '"ps"' in text]
    assert [list(parse_cluster_of_workers(text)) for text in texts if '"ps"' not in text] == [["worker"]]
    assert [task.name for task in tasks] == ["ps 0", "worker 0", "chief 0"]
    assert len({task.cluster for task in tasks}) == 1
    assert sum(1 for _ in tasks[0].cluster.servers()) + 1 == len(tasks)


def test_launch_commands_parse():
    from tfps.cli import launch

    for line in commands():
        if line.startswith("tfps-launch") and "--tls" not in line:
            command = line.partition(" > ")[0]
            assert launch.COMMAND.parse(shlex.split(command)) == ["tfps-launch", "train.py"]
            assert (launch.COMMAND.flags.ps, launch.COMMAND.flags.workers) == (2, 4)


def test_benchmark_commands_parse():
    from benchmarks import convergence, ctr_dnn, word2vec

    options = re.findall(r"`(--[^`]*--versus [^`]*)`", text_of("README.md"))
    assert len(options) >= 3
    for line in options:
        (word2vec if "--mode" in line else ctr_dnn)._parser().parse_args(shlex.split(line))
    lines = [line for line in commands() if "benchmarks.convergence" in line]
    assert len(lines) >= 3
    for line in lines:
        convergence._parser().parse_args(shlex.split(line)[3:])
    named = {name for document in DOCUMENTS for name in re.findall(r"python -m benchmarks\.(\w+)", text_of(document))}
    assert {"ctr_dnn", "ops", "startup"} <= named
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in named)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text_of(document)):
        assert (ROOT / document).parent.joinpath(target).exists(), target


def test_files_that_are_named_exist():
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:tfps|tests|examples|tfps_ops)/[\w/]+\.\w+)`", text_of(document)):
            assert (ROOT / name).is_file(), f"{document}: {name}"
    for name in re.findall(r"`(\w+/\w+\.py)`", text_of("docs/architecture.md")):
        assert (ROOT / "tfps" / name).is_file() or (ROOT / name).is_file(), name


# Tables.


def called(owner):
    """A class by its name, and TensorFlow's modules as users write them."""
    import tensorflow as tf

    from tfps.keras import _compat

    # Classes whose own names differ from version to version.
    public = {
        _compat.EXPORT_ARCHIVE: "ExportArchive",
        tf.data.Dataset: "tf.data.Dataset",
        _compat.H5_ENTRY: "H5IOStore",
    }
    if owner in public:
        return public[owner]
    return re.sub(r"^tensorflow(\._api\.v2)?", "tf", owner.__name__)


def test_hooks_are_those_of_the_table(monkeypatch):
    from tfps.keras import _compat, hooks
    from tfps.keras.hooks import replacing

    replaced = ["Variable.sparse_read", "Variable.trainable"]  # properties, the one added, of the other the setter
    monkeypatch.setattr(replacing, "replace", lambda owner, name, *_: replaced.append(f"{called(owner)}.{name}"))
    monkeypatch.setattr(hooks, "_INSTALLED", set())
    hooks.install()
    rows = [row[0] for row in table("docs/architecture.md", "replaced", "why", "applies to")]
    older = [f"{kind.__name__}.build" for kind in _compat.UNREFERENCED_SLOTS]
    # Hooks that only a Keras before 3.10 gets.
    absent = {"Adagrad.build", "Ftrl.build"} - set(older)
    assert {"Adagrad.build", "Ftrl.build"} <= set(rows)
    replaced = [name.replace(_compat.STEPS_OF_EPOCH, "_enumerate_iterator") for name in replaced]
    assert sorted(replaced) == sorted(name for name in rows if name not in absent)


def test_imports_are_those_of_the_table():
    from tests.test_imports import ALLOWED, BASE

    rows = {row[0]: row[1] for row in table("docs/architecture.md", "package", "may import", "is")}
    assert {
        name: set(code(cell))
        for name, cell in rows.items()
        if name not in ("keras", "streaming", "metrics", "debug", "cli")
    } == ALLOWED
    above = [rows[name] for name in ("keras", "streaming", "metrics", "debug", "cli")]
    assert set(above) == {"all of the above"}
    assert ", ".join(f"`{name}`" for name in BASE) in text_of("docs/architecture.md")


def keras_cell(rule):
    """The optimizers of a rule as the documents name them: `SGD(momentum=)`, `Adam(amsgrad=True)`."""
    flags = {"amsgrad": "amsgrad=True", "centered": "centered=True"}
    options = ", ".join(flags.get(option, f"{option}=") for option in rule.options)
    return ", ".join(f"`{path.rpartition('.')[2]}{f'({options})' if options else ''}`" for path in rule.keras)


def test_rules_are_those_of_the_table():
    """Cell by cell; a rule that was added or changed is copied from here."""
    from tfps.ops.row_rules import ROW_RULES

    declared = []
    for rule in ROW_RULES.values():
        slots = ", ".join(f"{slot.symbol}{' (one a row)' if slot.per_row else ''}" for slot in rule.slots)
        declared.append(f"| {keras_cell(rule)} | `{rule.name}` | {slots} | {rule.update} |".replace("|  |", "| |"))
    head = "| Keras optimizer | rule | slots | what one gradient row does |\n|---|---|---|---|\n"
    assert head + "\n".join(declared) + "\n\n" in text_of("docs/optimizers.md")
    named = {path.rpartition(".")[2] for rule in ROW_RULES.values() for path in rule.keras}
    assert not [name for name in named if name not in text_of("README.md")]


def test_averages_are_those_of_the_table():
    from tfps.ops.row_rules import ROW_RULES

    averages = {}
    for rule in ROW_RULES.values():
        for slot in rule.slots:
            if slot.decay is not None:
                names = averages.setdefault((slot.attribute, slot.decay), {})
                names.update(dict.fromkeys(f"`{path.rpartition('.')[2]}`" for path in rule.keras))
    rows = [f"| `{slot}` of {', '.join(of)} | `{decay}` |" for (slot, decay), of in averages.items()]
    head = "| variable | decay |\n|---|---|\n"
    assert head + "\n".join(rows) + "\n\n" in text_of("docs/optimizers.md")


def test_numbers_are_those_of_the_code(strategy):
    from tfps.keras.variables import _TABLE_ROWS
    from tfps.training.asynchronous.pacing import ALONE
    from tfps.training.asynchronous.pacing import UNSEEN as UNSEEN_STEPS
    from tfps.training.exchange import _KEY_STEP
    from tfps.training.geo.pacing import UNSEEN, UNSEEN_OF_MANY
    from tfps.training.pacing import CLOSURES_AN_EPOCH

    between = strategy.dense_exchange_every * strategy.num_workers
    assert f"which is {between} divided by the workers" in text_of("docs/optimizers.md")
    assert f"at most {between} steps between two exchanges" in text_of("README.md")
    assert f"at least {CLOSURES_AN_EPOCH} closures" in text_of("docs/architecture.md")
    assert f"`strategy.closure_timeout_s` ({strategy.closure_timeout_s:.0f} s)" in text_of("docs/architecture.md")
    assert f"from step `{UNSEEN} * n` on" in text_of("docs/optimizers.md").replace("\n", " ")
    assert f"from step `{UNSEEN_STEPS} * n` on" in text_of("docs/optimizers.md").replace("\n", " ")
    assert f"at most `iterations / ({UNSEEN_STEPS} * N)` steps" in text_of("docs/optimizers.md")
    assert f"alone trains the first {ALONE} steps" in text_of("docs/optimizers.md")
    assert f"for every {UNSEEN_STEPS} steps" in text_of("docs/convergence.md").replace("\n", " ")
    assert f"`iterations / {2 * UNSEEN}`" in text_of("docs/optimizers.md")
    assert f"`iterations / ({UNSEEN_OF_MANY} * N)`" in text_of("docs/optimizers.md")
    assert f"n * {_KEY_STEP:,}" in text_of("docs/optimizers.md")
    assert f"at least {_TABLE_ROWS:,} rows" in text_of("docs/architecture.md")


def test_versions_are_those_of_the_makefile_and_the_package():
    rows = table("README.md", "TensorFlow", "Keras")
    pairs = re.search(r"^VERSIONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    assert ["+".join(row) for row in rows] == pairs
    first, last = rows[0][0], rows[-1][0]
    assert f'"tensorflow>={first},<2.{int(last.split(".")[1]) + 1}"' in (ROOT / "pyproject.toml").read_text()


def test_environment_variables_are_those_of_env():
    from tfps import env

    named = {row[0] for row in table("README.md", "variable", "meaning", "default")}
    assert named == set(re.findall(r'"""`(\w+)`', inspect.getsource(env)))


def test_a_term_has_one_meaning():
    terms = [row[0] for row in table("docs/glossary.md", "term", "meaning")]
    assert terms == sorted(set(terms)) and len(terms) > 20
