"""`Explanation`: a decision as a value, with its reasons and every number. It prints well and turns into a dict."""

import dataclasses
import json
from typing import Any

from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site
from tfps.jobs import WORKER
from tfps.placement.text import align_columns, human_bytes


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One strategy: whether it is possible, what it needs and how fast it is predicted to be.

    Args:
        strategy: the name of its class.
        is_possible: whether it can train this model on these machines.
        why_not: why it is not possible, or why it is never chosen; "" if it is possible.
        replicas: replicas that compute.
        servers: parameter servers, if it has any.
        device_bytes: the memory that a replica needs on its device.
        device_limit_bytes: the memory that the device has for it.
        link_bytes: the bytes of a step over the busiest link, one way.
        step_s: predicted seconds of a step of one replica.
        examples_per_s: predicted examples a second of all replicas.
    """

    strategy: str
    is_possible: bool = True
    why_not: str = ""
    replicas: int = 1
    servers: int = 0
    device_bytes: float = 0.0
    device_limit_bytes: float = 0.0
    link_bytes: float = 0.0
    step_s: float = 0.0
    examples_per_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The strategy for a model on some machines, and why.

    Args:
        choice: the name of the strategy's class, such as "MirroredStrategy".
        reasons: why, a sentence each.
        borderlines: what would change the decision if a number were a little different, a sentence each.
        assumptions: numbers that were assumed and not found, a sentence each.
        refusal: why the chosen strategy cannot start on these machines; "" if it can.
        footprint: the model.
        site: the machines.
        candidates: every strategy, the chosen one included.
    """

    choice: str
    reasons: tuple[str, ...]
    borderlines: tuple[str, ...]
    assumptions: tuple[str, ...]
    refusal: str
    footprint: Footprint
    site: Site
    candidates: tuple[Candidate, ...]

    @property
    def is_borderline(self) -> bool:
        """Whether a number that is a little different would change the decision."""
        return bool(self.borderlines)

    @property
    def chosen(self) -> Candidate:
        """The chosen strategy."""
        return self.candidate(self.choice)

    def candidate(self, strategy: str) -> Candidate:
        """Returns a strategy by the name of its class.

        Raises:
            KeyError: there is no strategy of this name.
        """
        for candidate in self.candidates:
            if candidate.strategy == strategy:
                return candidate
        raise KeyError(f"{strategy!r}; valid: {[candidate.strategy for candidate in self.candidates]}")

    def summary(self) -> str:
        """Returns the decision in one sentence with its numbers, for the log."""
        chosen, footprint = self.chosen, self.footprint
        servers = f" and {_count(chosen.servers, 'parameter server')}" if chosen.servers else ""
        return (
            f"{self.choice} for batches of {footprint.batch_size} on {_count(chosen.replicas, 'replica')}{servers}: "
            f"the model has {human_bytes(footprint.variable_bytes + footprint.slot_bytes)} of variables and slots, "
            f"{footprint.table_share:.0%} of them in tables, a replica needs {human_bytes(chosen.device_bytes)} of the "
            f"{human_bytes(chosen.device_limit_bytes)} of a {self.site.device}, a step moves "
            f"{human_bytes(chosen.link_bytes)}, and {chosen.examples_per_s:,.0f} examples a second are predicted"
            f"{' (a borderline)' if self.borderlines else ''}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as dicts, lists, numbers and strings, for JSON."""
        return {
            "choice": self.choice,
            "reasons": list(self.reasons),
            "is_borderline": self.is_borderline,
            "borderlines": list(self.borderlines),
            "assumptions": list(self.assumptions),
            "refusal": self.refusal,
            "model": self.footprint.to_dict(),
            "machines": self.site.to_dict(),
            "candidates": [dataclasses.asdict(candidate) for candidate in self.candidates],
        }

    def to_json(self) -> str:
        """Returns `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        """Returns the decision, the reasons, the model, the machines and a table of all strategies."""
        lines = [f"Strategy: {self.choice}{' (a borderline)' if self.borderlines else ''}", ""]
        for head, sentences in (
            ("Why", self.reasons),
            ("Borderline", self.borderlines),
            ("Assumed", self.assumptions),
            ("Cannot start here", (self.refusal,) if self.refusal else ()),
        ):
            if sentences:
                lines += [f"{head}:", *(f"- {sentence}" for sentence in sentences), ""]
        never = [candidate for candidate in self.candidates if candidate.why_not]
        return "\n".join(
            [
                *lines,
                *_model_lines(self.footprint),
                "",
                *_site_lines(self.site),
                "",
                *align_columns(
                    [_HEAD, *(_row(candidate, self.choice) for candidate in self.candidates if candidate.step_s)]
                ),
                "",
                *(f"{candidate.strategy}: {candidate.why_not}" for candidate in never),
            ]
        ).rstrip()


_HEAD = ("strategy", "replicas", "servers", "bytes a replica", "of", "bytes a step", "ms a step", "examples/s")


def _row(candidate: Candidate, choice: str) -> tuple[str, ...]:
    mark = " <-" if candidate.strategy == choice else "" if candidate.is_possible else " (not possible)"
    return (
        candidate.strategy + mark,
        str(candidate.replicas),
        str(candidate.servers or ""),
        human_bytes(candidate.device_bytes),
        human_bytes(candidate.device_limit_bytes),
        human_bytes(candidate.link_bytes),
        f"{candidate.step_s * 1000:.1f}",
        f"{candidate.examples_per_s:,.0f}",
    )


def _model_lines(footprint: Footprint) -> list[str]:
    tables = sum(1 for spec in footprint.specs if spec.is_table)
    in_tables = (
        f"{_count(tables, 'table')} with {footprint.table_share:.1%} of variables and slots" if tables else "no tables"
    )
    names = ", ".join(map(repr, footprint.whole_tables))
    whole = f" A step reads all of {names}, so it counts as dense." if names else ""
    return [
        f"Model: {human_bytes(footprint.variable_bytes)} of variables, {human_bytes(footprint.slot_bytes)} of slots, "
        f"{human_bytes(footprint.gradient_bytes)} of gradients; {in_tables}.{whole}",
        f"Step of {footprint.batch_size} examples: {human_bytes(footprint.step.activation_bytes)} of activations, "
        f"{footprint.unique_rows:,.0f} unique rows ({human_bytes(footprint.row_bytes)}), {footprint.step.flops:.3g} "
        f"floating-point operations in {footprint.step.operations} operations.",
    ]


def _site_lines(site: Site) -> list[str]:
    cards = f"{_count(site.cards, 'card')} of {human_bytes(site.card_bytes)}" if site.cards else "no cards"
    fixed = f" (fixed by {site.fixed})" if site.fixed else ""
    servers = f", {_count(site.servers, 'parameter server')}" if site.servers else ""
    network = (
        f"; {human_bytes(site.bandwidth)} a second between hosts, {site.bandwidth_source}" if site.hosts > 1 else ""
    )
    return [
        f"Machines: {_count(site.hosts, 'host')} with {_count(site.workers, WORKER)}{servers}{fixed}; each host "
        f"{_count(site.cores, 'core')}, {human_bytes(site.host_bytes)} of memory, {cards}{network}."
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
