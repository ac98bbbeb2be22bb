"""`tfps-plan --strategy`: the flags that describe machines, and the explanation of the strategy for a model file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from tfps.choice.explanation import Explanation
from tfps.choice.hardware import Hardware
from tfps.cli.command import define_alias
from tfps.errors import PlanError

if TYPE_CHECKING:
    from tfps.cli.source import Source

_INTEGERS = {"hosts": "Hosts", "cards": "Cards (GPUs) of each host", "cores": "CPU cores of each host"}
_NUMBERS = {
    "card-bytes": "Memory of a card, as in 16e9",
    "host-bytes": "Memory of a host, as in 64e9",
    "bandwidth": "Bytes a second between two hosts, each way",
}


class StrategyFlags:
    """The flags of `tfps-plan --strategy`.

    Args:
        flag_values: the flags of the command, to which these are added.
    """

    def __init__(self, flag_values: flags.FlagValues) -> None:
        self._flags = flag_values
        flags.DEFINE_boolean(
            "strategy", False, "Explain which strategy suits the model, instead of a plan.", flag_values=flag_values
        )
        for name, text in _INTEGERS.items():
            flags.DEFINE_integer(name, None, f"{text} (--strategy; default what is found).", flag_values=flag_values)
        for name, text in _NUMBERS.items():
            flags.DEFINE_float(name, None, f"{text} (--strategy; default what is found).", flag_values=flag_values)
            if "-" in name:
                define_alias(flag_values, name)

    @property
    def is_given(self) -> bool:
        """Whether the command is to explain a strategy."""
        return bool(self._flags["strategy"].value)

    def check(self, of_plans: Sequence[str]) -> None:
        """Refuses flags of machines without `--strategy`, and flags of plans with it.

        Args:
            of_plans: the names of the flags that only a plan has.

        Raises:
            PlanError: such a flag is given.
        """
        names = of_plans if self.is_given else (*_INTEGERS, *_NUMBERS)
        rule = "be left out with --strategy" if self.is_given else "come with --strategy"
        for name in names:
            if self._flags[name].present:
                raise PlanError(f"`--{name}` must {rule}. Received: {self._flags[name].value}.")

    def explain(self, source: "Source", batch_size: int) -> Explanation:
        """Explains the strategy for the model of a file. Imports TensorFlow.

        Args:
            source: the model file.
            batch_size: the examples in a step of one replica.

        Raises:
            ConfigError: a flag breaks its rule, the model is not compiled, or no device holds a replica.
            PlanError: the file has no model, or the model needs `inputs()`.
        """
        values = {name.replace("-", "_"): self._flags[name].value for name in (*_INTEGERS, *_NUMBERS)}
        hardware = Hardware(**values)
        from tfps.keras.choosing import explain_strategy

        return explain_strategy(source.model, batch_size, inputs=source.inputs, hardware=hardware)
