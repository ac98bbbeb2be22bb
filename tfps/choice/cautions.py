"""What a reader of a decision must know beside its reasons: borderlines, and numbers that were assumed."""

from collections.abc import Iterator

from tfps.choice import constants
from tfps.choice.candidates import MIRRORED, MULTI, ONE, SERVERS, bytes_ratio, speedup
from tfps.choice.explanation import Candidate
from tfps.choice.footprint import Footprint
from tfps.choice.hardware import Site
from tfps.placement.text import human_bytes


def borderlines(footprint: Footprint, site: Site, found: dict[str, Candidate], choice: str) -> Iterator[str]:
    """Yields what would change the decision if a number were a little different."""
    limit = found[choice].device_limit_bytes if choice != SERVERS else found[ONE].device_limit_bytes
    part = footprint.replica_bytes / limit if limit else 0.0
    # If there are no tables, nothing else would hold the model, but it may still fail to fit.
    if constants.FIT_BORDER < part < constants.BORDER:
        yield (
            f"A replica needs {part:.0%} of what a {site.device} has for it. Fragmentation and workspaces of kernels "
            "are not counted."
        )
    for other in _rivals(site, found, choice):
        ratio = speedup(found, other, choice)
        if ratio > 1 / constants.BORDER and not (choice == MULTI and other == SERVERS and ratio > constants.BORDER):
            yield f"{other} is predicted to be {ratio:.2f} times as fast."
    if site.hosts > 1 and not site.fixed and found[SERVERS].is_possible and found[MULTI].is_possible:
        ratio = bytes_ratio(footprint, site, found)
        if 1 / constants.BORDER < ratio < constants.BORDER:
            yield f"All-reduce moves {ratio:.2f} times the bytes of parameter servers."
        elif choice == MULTI and speedup(found, SERVERS, MULTI) > constants.BORDER:
            yield (
                f"{SERVERS} is predicted to be {speedup(found, SERVERS, MULTI):.1f} times as fast: its workers "
                "exchange dense variables only every few steps, and train on older values."
            )


def _rivals(site: Site, found: dict[str, Candidate], choice: str) -> Iterator[str]:
    """Yields the strategies that could have been chosen instead."""
    if site.servers:
        return
    for name in (ONE, MIRRORED, MULTI, SERVERS):
        is_open = not site.fixed or (name == MULTI) == (site.workers > 1)
        if name != choice and found[name].is_possible and found[choice].is_possible and is_open:
            yield name


def assumptions(footprint: Footprint, site: Site, choice: str) -> Iterator[str]:
    """Yields the numbers that were assumed."""
    if site.hosts > 1 and site.bandwidth_source == "assumed":
        yield f"{human_bytes(site.bandwidth)} a second between hosts; give Hardware(bandwidth=)."
    if site.cards and choice in (ONE, MIRRORED, MULTI, SERVERS):
        yield (
            f"cards of {constants.CARD_FLOPS / 1e12:.0f} TFLOP/s with {human_bytes(constants.CARD_LINK_BYTES_S)} a "
            "second between them; the times are no prediction of these cards."
        )
    if footprint.unknown_tables:
        yield f"512 looked-up rows a step of {footprint.unknown_tables}, whose ids could not be counted."
    if footprint.step.guessed:
        yield f"{footprint.batch_size} for dimensions of {footprint.step.guessed} tensors that depend on the data."
    if footprint.step.endless:
        yield "one turn of a loop whose length depends on the data."
