"""Parses TF_CONFIG, which says which cluster this process belongs to and which task of it the process is.

Parsing checks everything before any task starts. Pure functions and immutable values: any thread, microseconds.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfps import env
from tfps.cluster.endpoints import Endpoint, check_addresses
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ConfigError
from tfps.jobs import CHIEF, JOBS
from tfps.types import JSON

_EVALUATOR_HINT = (
    "An evaluator must stay outside a parameter-server cluster, whose chief would wait for it for ever: start it as "
    "a separate program, without TF_CONFIG, that reads the checkpoints"
)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A cluster and one task of it.

    Args:
        cluster: the addresses of all tasks, with a chief.
        task_type: "chief", "worker" or "ps".
        task_index: this task's position in `cluster`'s list for its type, from 0.

    Raises:
        ConfigError: the type is unknown, the cluster has no chief, or the index is not in its list.
    """

    cluster: ClusterSpec
    task_type: str
    task_index: int

    def __post_init__(self) -> None:
        """Checks that the cluster has this task."""
        if not self.cluster.endpoints(CHIEF):
            raise ConfigError(f"`cluster.chief` must list one address. Received: {_shorten(self.cluster.as_dict())}.")
        _check_task_type(self.task_type)
        _check_task_index(self.task_index, self.task_type, len(self.cluster.endpoints(self.task_type)))

    @property
    def name(self) -> str:
        """The task's name in messages and logs: "worker 0"."""
        return f"{self.task_type} {self.task_index}"

    @property
    def endpoint(self) -> Endpoint:
        """The address at which this task listens and the address at which others dial it."""
        return self.cluster.endpoints(self.task_type)[self.task_index]

    def to_json(self) -> str:
        """Returns the TF_CONFIG text that parses to this task."""
        task = {"type": self.task_type, "index": self.task_index}
        return json.dumps({"cluster": self.cluster.as_dict(), "task": task})


def from_environment() -> TaskConfig | None:
    """Returns the task of this process according to TF_CONFIG, or None if the variable is not set.

    Raises:
        ConfigError: TF_CONFIG is set and breaks a rule.
    """
    text = env.tf_config()
    return None if text is None else parse_tf_config(text)


def parse_tf_config(text: str) -> TaskConfig:
    """Parses and checks the text of a TF_CONFIG.

    Keys that TensorFlow knows and a parameter-server cluster does not need ("environment") are ignored.

    Raises:
        ConfigError: the text breaks a rule. The message names the key, what it holds and what is valid.
    """
    # The prefix is added here, because the rules below are also used for clusters that do not come from TF_CONFIG.
    try:
        config = _require_object("the whole text", _load_json(text))
        _check_rpc_layer(config.get("rpc_layer", "grpc"))
        cluster = _parse_cluster(_require_object("cluster", _require_key(config, "cluster", "")))
        task = _require_object("task", _require_key(config, "task", ""))
        return TaskConfig(cluster, _require_key(task, "type", "task."), _require_key(task, "index", "task."))
    except ConfigError as error:
        raise ConfigError(f"TF_CONFIG: {error}") from None


def parse_cluster_of_workers(text: str) -> dict[str, list[str]]:
    """Parses and checks a TF_CONFIG of workers that hold a model each, without servers and with or without a chief.

    Returns:
        The addresses of each job.

    Raises:
        ConfigError: the text breaks a rule. The message names the key, what it holds and what is valid.
    """
    try:
        config = _require_object("the whole text", _load_json(text))
        _check_rpc_layer(config.get("rpc_layer", "grpc"))
        tasks = _require_object("cluster", _require_key(config, "cluster", ""))
        for job, addresses in tasks.items():
            _check_job(job)
            check_addresses(f"cluster.{job}", addresses)
        task = _require_object("task", _require_key(config, "task", ""))
        task_type, index = _require_key(task, "type", "task."), _require_key(task, "index", "task.")
        _check_task_type(task_type)
        _check_task_index(index, task_type, len(tasks.get(task_type, ())))
        return tasks
    except ConfigError as error:
        raise ConfigError(f"TF_CONFIG: {error}") from None


def _load_json(text: str) -> JSON:
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicates)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"it must be JSON, but {error.msg} at {where}. Received: {_shorten(text)}.") from None
    except RecursionError:
        raise ConfigError(f"it must be JSON of a few levels. Received: {_shorten(text)}.") from None
    # Python refuses to read a number of thousands of digits.
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"it must be JSON with numbers of a few digits. Received: {_shorten(text)}.") from None


def _reject_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    # json silently keeps the last of two equal keys: with two lists of workers, half of them would be missing.
    keys = [key for key, _ in pairs]
    duplicates = sorted({key for key in keys if keys.count(key) > 1})
    if duplicates:
        raise ConfigError(
            f"every key must appear once in its object. Received: {_shorten(duplicates[0])} more than once."
        )
    return dict(pairs)


def _require_object(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"`{key}` must be a JSON object. Received: {_shorten(value)}.")
    return value


def _require_key(holder: Mapping[str, Any], key: str, path: str) -> Any:
    if key not in holder:
        valid = {"cluster": "the jobs and their addresses", "task": 'this process, {"type": "worker", "index": 0}'}
        what = valid.get(key, "one of chief, worker, ps" if key == "type" else "the task's position from 0")
        raise ConfigError(f"`{path}{key}` must be given: {what}. Received keys: {_shorten(sorted(holder))}.")
    return holder[key]


def _check_rpc_layer(layer: object) -> None:
    if layer != "grpc":
        raise ConfigError(f'`rpc_layer` must be "grpc" or left out. Received: {_shorten(layer)}.')


def _parse_cluster(jobs: dict[str, Any]) -> ClusterSpec:
    # Unknown jobs first: a misspelt "workers" would otherwise be reported as a missing "worker".
    for job in jobs:
        _check_job(job)
    for job in JOBS:
        check_addresses(f"cluster.{job}", jobs.get(job, []))
        if not jobs.get(job):
            raise ConfigError(f"`cluster.{job}` must list at least one address. Received: {_shorten(jobs)}.")
    return ClusterSpec(**{job: tuple(jobs[job]) for job in JOBS})


def _check_job(job: str) -> None:
    if job == "evaluator":
        raise ConfigError(f"`cluster.evaluator` must be left out. {_EVALUATOR_HINT}. Received: 'evaluator'.")
    if job == "master":
        raise ConfigError(f"`cluster.master` must be named \"{CHIEF}\", as TensorFlow 2 calls it. Received: 'master'.")
    if job not in JOBS:
        raise ConfigError(f"`cluster` must hold the jobs {', '.join(JOBS)} alone. Received: {_shorten(job)}.")


def _check_task_type(task_type: object) -> None:
    if task_type == "evaluator":
        raise ConfigError(f"`task.type` must be one of {', '.join(JOBS)}. {_EVALUATOR_HINT}. Received: 'evaluator'.")
    if task_type not in JOBS:
        hint = ' TensorFlow 1\'s "master" is named "chief" now.' if task_type == "master" else ""
        raise ConfigError(f"`task.type` must be one of {', '.join(JOBS)}.{hint} Received: {_shorten(task_type)}.")


def _check_task_index(index: object, task_type: str, count: int) -> None:
    if isinstance(index, bool) or not isinstance(index, int):
        raise ConfigError(f"`task.index` must be an integer from 0. Received: {_shorten(index)}.")
    if not 0 <= index < count:
        valid = "0" if count == 1 else f"0 to {count - 1}"
        raise ConfigError(
            f"`task.index` must be {valid}: `cluster.{task_type}` lists {count} address{'es' * (count > 1)}. "
            f"Received: {_shorten(index)}."
        )


def _shorten(value: object) -> str:
    # A TF_CONFIG may list hundreds of hosts; the first 200 characters are enough to recognize it.
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
