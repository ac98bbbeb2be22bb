"""A command of ours: absl flags that no other program sees, a help text, and exit statuses.

absl keeps the flags of a process in one global object, `absl.flags.FLAGS`. A user's model file or training program may
define flags there, so our commands keep theirs in a `FlagValues` of their own.
"""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

USAGE_ERROR = 2


class Command:
    """The flags of one command, how they are parsed, and how the command is run.

    Args:
        name: what the user types.
        usage: the arguments after the name, for the first line of the help text.
        description: what the command does; the body of the help text.
        intermixed: whether flags may follow positional arguments. Off for a command that runs another program: what
            follows the program's name is the program's.
    """

    def __init__(self, name: str, usage: str, description: str, *, intermixed: bool) -> None:
        self.name = name
        self.flags = flags.FlagValues()
        self.flags.set_gnu_getopt(intermixed)
        self._usage, self._description = usage, description
        flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", flag_values=self.flags)

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Sets the flags to what a command line says.

        Args:
            argv: the name of the command, then its arguments.

        Returns:
            The name of the command, then the arguments that are no flags.

        Raises:
            SystemExit: with status 0 after `--help`, 2 after a message that names the wrong flag.
        """
        self.flags.unparse_flags()  # a second call in one process must not see the flags of the first
        try:
            arguments: list[str] = self.flags(list(argv))
        except (flags.Error, ValueError) as error:
            self.fail(str(error))
        if self.flags["help"].value:
            _print(self.help_text())
            sys.exit(0)
        return arguments

    def help_text(self) -> str:
        """The usage line, the description, and a line or two for each flag."""
        # A flag with a short name is listed under both names, and is shown once.
        names = dict.fromkeys(flag.name for flag in map(self.flags.__getitem__, self.flags))
        lines = [_flag_line(self.flags[name]) for name in names]
        return "\n".join([self._usage_line(), "", self._description.strip(), "", "flags:", *lines])

    def fail(self, problem: str) -> None:
        """Prints what is wrong with the command line and ends the process with status 2."""
        print(f"{self._usage_line()}\n{self.name}: error: {problem}", file=sys.stderr)
        sys.exit(USAGE_ERROR)

    def run(self, main: Callable[[list[str]], int]) -> None:
        """Runs the command as a program, and ends the process with the status that `main` returns.

        Args:
            main: gets what `parse` returns.
        """
        app.run(main, flags_parser=self._parse_for_app)

    def _parse_for_app(self, argv: Sequence[str]) -> list[str]:
        # absl.app reads global flags of its own (--pdb and the like) and refuses to while they are unparsed. A model
        # file that defines global flags reads their defaults.
        flags.FLAGS([self.name])
        return self.parse(argv)

    def _usage_line(self) -> str:
        return f"usage: {self.name} {self._usage}"


def define_alias(flag_values: flags.FlagValues, name: str) -> None:
    """Lets a flag with dashes also be spelled with underscores, as TensorFlow's programs spell theirs."""
    flags.DEFINE_alias(name.replace("-", "_"), name, flag_values=flag_values)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `tfps-plan --help | head`: the reader has what it wants, and gets no traceback for it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flag_line(flag: flags.Flag) -> str:
    names = f"-{flag.short_name}, --{flag.name}" if flag.short_name else f"--{flag.name}"
    value = "" if flag.boolean else " " + _placeholder(flag)
    return f"  {names + value:<28}  {flag.help}"


def _placeholder(flag: flags.Flag) -> str:
    return "N" if flag.flag_type() == "int" else "NAME" if "enum" in flag.flag_type() else "TEXT"
