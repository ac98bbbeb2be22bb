"""The flags of tfps-launch and tfps-plan: every spelling, the program's own flags, help, and nobody else's flags."""

import subprocess
import sys

import pytest

from tfps.cli import checkpoint, launch, plan

FLAGS = launch.COMMAND.flags


def parse(*arguments):
    """What is left of a command line of tfps-launch, without its name."""
    return launch.COMMAND.parse(["tfps-launch", *arguments])[1:]


@pytest.mark.parametrize("spelling", [("--ps", "2"), ("--ps=2",), ("-ps", "2"), ("-ps=2",)])
def test_every_spelling_of_a_flag(spelling):
    assert parse(*spelling, "train.py") == ["train.py"]
    assert FLAGS.ps == 2


@pytest.mark.parametrize("spelling", [("--log-dir", "logs"), ("--log-dir=logs",), ("--log_dir", "logs")])
def test_a_dash_may_be_an_underscore(spelling):
    assert parse(*spelling, "train.py") == ["train.py"]
    assert FLAGS["log-dir"].value == "logs"


@pytest.mark.parametrize(
    "arguments", [["train.py", "--ps", "7"], ["train.py", "--help"], ["train.py", "--", "-x"], ["sh", "-c", "true"]]
)
@pytest.mark.parametrize("separator", [[], ["--"]])
def test_what_follows_the_program_is_its_own(arguments, separator):
    assert parse("--workers", "3", *separator, *arguments) == arguments
    assert (FLAGS.workers, FLAGS.ps) == (3, None)


def test_a_second_call_does_not_see_the_flags_of_the_first():
    parse("--ps", "2", "--log-dir", "logs", "train.py")
    parse("train.py")
    assert (FLAGS.ps, FLAGS["log-dir"].value) == (None, None)


def test_flags_of_a_plan_may_follow_its_model():
    assert plan.COMMAND.parse(["tfps-plan", "model.py", "--ps", "8", "--routing=mod"]) == ["tfps-plan", "model.py"]
    assert (plan.COMMAND.flags.ps, plan.COMMAND.flags.routing, plan.COMMAND.flags.batch) == (8, "mod", 512)


@pytest.mark.parametrize("command", [checkpoint, launch, plan])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_flag(command, flag, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main([flag])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert printed.startswith(f"usage: {command.COMMAND.name} [flags] ")
    # Each by one name: with underscores instead of dashes a flag is accepted, too, but not shown again.
    named = [name for name in command.COMMAND.flags if len(name) > 1 and name != "help"]
    assert [name for name in named if f"--{name} " not in printed] == [name for name in named if "_" in name]


def test_help_may_be_piped_to_a_reader_that_stops_early():
    command = f"{sys.executable} -m tfps.cli.launch --help | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (launch, ["--nope", "1", "train.py"], "Unknown command line flag 'nope'"),
        (launch, ["--ps"], "Missing value for flag --ps"),
        (plan, ["m.py", "--ps", "two"], "flag --ps=two"),
        (plan, ["m.py", "--routing", "modulo"], "value should be one of <hash|mod|div>"),
        (plan, [], "one model file or saved plan must be given. Received: []"),
        (plan, ["a.py", "b.py"], "Received: ['a.py', 'b.py']"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(command, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ") and words in error


def test_the_flags_of_a_model_file_are_left_alone(tmp_path):
    """A model file may define a global flag of the same name as ours; it reads its default."""
    model = tmp_path / "model.py"
    model.write_text(
        "from absl import flags\n"
        "BATCH = flags.DEFINE_integer('batch', 7, 'of the user')\n"
        "import keras\n"
        "def build():\n"
        "    assert BATCH.value == 7\n"
        "    return keras.Sequential([keras.Input((BATCH.value,)), keras.layers.Dense(1)])\n"
    )
    command = [sys.executable, "-m", "tfps.cli.plan", str(model), "--ps", "1", "--batch", "9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[7, 1]" in done.stdout


def test_importing_the_package_and_its_commands_defines_no_global_flag():
    source = (
        "from absl import app, flags; before = set(flags.FLAGS)\n"
        "import tfps.cli.checkpoint, tfps.cli.launch, tfps.cli.plan\n"
        "added = map(flags.FLAGS.find_module_defining_flag, set(flags.FLAGS) - before)\n"
        "assert not [module for module in added if 'tfps' in module]"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


def test_a_misspelt_model_file_is_named_without_waiting_for_tensorflow():
    source = (
        "import sys; import tfps.cli.plan as plan\n"
        "assert plan.main(['nothere.py', '--ps', '2']) == 1\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0 and "Received: 'nothere.py', which is not a file" in done.stderr, done.stderr
