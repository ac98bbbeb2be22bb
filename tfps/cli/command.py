"""The base of the commands: private absl flags, a help text and exit statuses.

absl has one global object for the flags of a process, `absl.flags.FLAGS`. A user's model file or training program may
define flags there, so each command has its own `FlagValues` object.
"""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

USAGE_ERROR = 2
"""The exit status for a wrong command line."""


class Command:
    """A command: defines and parses its flags, and runs it as a program.

    Args:
        name: the name that the user types.
        usage: the arguments after the name, for the first line of the help text.
        description: what the command does; the body of the help text.
        intermixed: whether flags may follow positional arguments. False for a command that runs another program, which
            gets all arguments after its name.
    """

    def __init__(self, name: str, usage: str, description: str, *, intermixed: bool) -> None:
        self.name = name
        self.flags = flags.FlagValues()
        self.flags.set_gnu_getopt(intermixed)
        self._usage, self._description = usage, description
        flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", flag_values=self.flags)

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Parses a command line and sets the flags.

        Args:
            argv: the name of the command, then its arguments.

        Returns:
            The name of the command, then the arguments that are not flags.

        Raises:
            SystemExit: with status 0 after `--help`, 2 after a message that names the wrong flag.
        """
        # A second call in one process must not see the flags of the first.
        self.flags.unparse_flags()
        try:
            arguments: list[str] = self.flags(list(argv))
        except (flags.Error, ValueError) as error:
            self.fail(str(error))
        if self.flags["help"].value:
            _print(self.help_text())
            sys.exit(0)
        return arguments

    def help_text(self) -> str:
        """Returns the help text: the usage line, the description, and one line for each flag."""
        # absl lists a flag with a short name under both names. `dict.fromkeys` shows it once and keeps the order.
        # A name with underscores is the alias of one with dashes.
        names = dict.fromkeys(self.flags[name].name for name in self.flags if "_" not in name)
        lines = [_flag_line(self.flags[name]) for name in names]
        return "\n".join([self._usage_line(), "", self._description.strip(), "", "flags:", *lines])

    def fail(self, problem: str) -> None:
        """Prints a problem with the command line and ends the process with status 2."""
        # Scripts rely on 2 for usage errors, as argparse and most programs have it.
        print(f"{self._usage_line()}\n{self.name}: error: {problem}", file=sys.stderr)
        sys.exit(USAGE_ERROR)

    def run(self, main: Callable[[list[str]], int]) -> None:
        """Runs the command as a program, and ends the process with the status that `main` returns.

        Args:
            main: the function of the command. It gets the result of `parse`.
        """
        app.run(main, flags_parser=self._parse_for_app)

    def _parse_for_app(self, argv: Sequence[str]) -> list[str]:
        # absl.app reads its own global flags, such as --pdb, and fails if they are not parsed. Global flags of a model
        # file have their default values.
        flags.FLAGS([self.name])
        return self.parse(argv)

    def _usage_line(self) -> str:
        return f"usage: {self.name} {self._usage}"


def define_alias(flag_values: flags.FlagValues, name: str) -> None:
    """Lets a flag with dashes also be written with underscores, as in the programs of TensorFlow."""
    flags.DEFINE_alias(name.replace("-", "_"), name, flag_values=flag_values)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `tfps-plan --help | head` closes the pipe early, which is no error. Without this line the flush at exit fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flag_line(flag: flags.Flag) -> str:
    names = f"-{flag.short_name}, --{flag.name}" if flag.short_name else f"--{flag.name}"
    value = "" if flag.boolean else " " + _placeholder(flag)
    return f"  {names + value:<28}  {flag.help}"


def _placeholder(flag: flags.Flag) -> str:
    """Returns the word that stands for the value of a flag in the help text, as in "--ps N"."""
    return "N" if flag.flag_type() in ("int", "float") else "NAME" if "enum" in flag.flag_type() else "TEXT"
