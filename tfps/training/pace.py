"""How windows begin (GEO): a young model is trained by one worker, in windows of one step.

What workers learn beside one another, unseen, is added up. In a young model all of it points the same way, and the sum
overshoots; with Adagrad it also lowers the rates for good. So workers and the steps of their windows grow with what the
model was trained for: with 4 workers all are at work after 96 steps, and have windows of 25 after 3,200.
"""

UNSEEN = 32
"""Windows under way are, together, at most one step for so many that the model was trained for."""


def pace(trained: int, workers: int, most: int) -> tuple[int, int]:
    """How many workers may be at work, and the steps of a window.

    Args:
        trained: steps that the model was trained for.
        workers: there are.
        most: steps of a window, whatever the model was trained for.
    """
    if workers == 1:
        return 1, most
    unseen = trained // UNSEEN
    return min(workers, 1 + unseen), max(1, min(most, unseen // workers))


def of_few_lengths(steps: int, most: int) -> int:
    """A power of 4 of at most `steps`, or `most` itself: for windows that are traced for each length."""
    return most if steps >= most else 4 ** ((steps.bit_length() - 1) // 2)
