"""The version of the rows of all tables: raised whenever rows change in another way than by the updates of a `fit`.

A worker that keeps rows (`tfps.embedding.row_cache`) gets the version with each closure, and uses no row of another
one. So no copy survives an assignment, a restored checkpoint, a replaced server, or what other code did between two
calls of `fit`. A `tf.function` of the user's own that assigns a table counts when it is traced alone.

Threading: any thread. There is one version for the program, because a program has one strategy at a time.
"""

import itertools

_VERSIONS = itertools.count(1)


class _Newest:
    version = 0


_NEWEST = _Newest()


def current() -> int:
    """Returns the version of this moment."""
    return _NEWEST.version


def change() -> None:
    """Makes all copies of rows that workers keep useless, from the next closure on.

    Whoever changes rows calls it before and after: a closure that begins meanwhile may keep rows of before.
    """
    # Two threads may get here at once. Whichever writes last, the version is one that no closure has had before.
    _NEWEST.version = next(_VERSIONS)
