"""Repeats calls to stores that fail, with growing pauses, up to a time limit. No TensorFlow.

Threading: any thread. A call runs in a thread of its own, because some file systems of fsspec wait without a limit.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tfps.errors import SourceError, TfpsError

_LOG = logging.getLogger("tfps")
_T = TypeVar("_T")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 15.0
_ATTEMPT_S = 120.0
"""The longest time of one attempt. A request that takes longer is given up and made again."""

_FINAL = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError),
    *(ImportError, TypeError, NotImplementedError, ValueError, LookupError, AttributeError, AssertionError),
)
"""What another attempt does not change."""

# Each HTTP library keeps the number in another place.
_PASSING_STATUS = frozenset({408, 425, 429})
_NOT_FOUND = 404


def with_retries(what: str, call: Callable[[], _T], patience_s: float) -> _T:
    """Returns what a call returns, and repeats it while its failure may pass.

    Args:
        what: what the call does, for messages: "reading s3://logs/a.tsv".
        call: the call. It may run again while an attempt that hangs is still under way.
        patience_s: the seconds in which it must succeed.

    Raises:
        SourceError: no attempt succeeded in time, or the failure is one that stays.
    """
    deadline = time.monotonic() + patience_s
    attempts, told = 0, ""
    while True:
        attempts += 1
        left_s = max(deadline - time.monotonic(), 0.001)
        try:
            return _within(call, min(left_s, _ATTEMPT_S))
        except TfpsError:
            raise
        # Each file system raises errors of its own.
        except Exception as error:
            reason = describe(error)
            if not may_pass(error):
                raise SourceError(f"{what} failed: {reason.rstrip('.')}.") from None
            # The last attempt may have too little time for an answer; what the store told before says more.
            told = told if told and isinstance(error, NoAnswerError) else reason
        pause_s = min(_FIRST_PAUSE_S * 2 ** (attempts - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        left_s = deadline - time.monotonic()
        if pause_s > left_s:
            raise SourceError(
                f"{what} failed {attempts} times in {patience_s:g} s, the last time with: {told.rstrip('.')}. "
                "Valid: a store that answers; or a larger `patience_s`.",
                may_pass=True,
            )
        _LOG.warning("%s failed (%s): again in %.1f s, for %.0f s at most.", what, reason, pause_s, left_s)
        time.sleep(pause_s)


class NoAnswerError(TimeoutError):
    """An attempt took longer than its time."""


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: a broken connection, a busy server, but not a file that is not there."""
    error = _shown(error)
    status = _status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    # Libraries for HTTP derive errors of connections from ValueError, too.
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return not isinstance(error, _FINAL) and type(error).__name__ not in ("NoCredentialsError", "ClientError")


def describe(error: BaseException) -> str:
    """Returns the text of an error in one line, or its class if it has none; with its HTTP status if it has one."""
    error = _shown(error)
    text = " ".join(str(error).split())
    status = _status_of(error)
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return told if status is None or str(status) in text else f"{told.rstrip('.')} (HTTP {status})"


def _shown(error: BaseException) -> BaseException:
    """Returns the error that a file system hides.

    fsspec tells of whatever went wrong with a file of the web that it is not there, with what it was as the cause.
    """
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None or _own_status_of(cause) == _NOT_FOUND:
        return error
    return cause


def _status_of(error: BaseException) -> int | None:
    """Returns the HTTP status of an error or of its cause; None if they have none."""
    own = _own_status_of(error)
    return own if own is not None or error.__cause__ is None else _own_status_of(error.__cause__)


def _own_status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    # botocore has a dictionary, requests an object, aiohttp the number itself.
    inner = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for status in (inner, getattr(response, "status_code", None), getattr(error, "status", None)):
        if isinstance(status, int):
            return status
    return None


def _within(call: Callable[[], _T], limit_s: float) -> _T:
    """Returns what a call returns, or raises its error.

    Raises:
        TimeoutError: it took longer.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        # Raised again in the thread that waits.
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="tfps-read", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise NoAnswerError(f"no answer within {limit_s:.2g} s")
