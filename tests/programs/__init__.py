"""Python programs that tests start, without an import of TensorFlow for each."""

from tests.programs.forked import Program, run, start

__all__ = ["Program", "run", "start"]
