"""TF_CONFIG: which cluster this process belongs to, and which of its tasks it is.

Parsing checks everything before anything starts. Pure functions and immutable values: any thread, microseconds.
"""

import dataclasses
import json
from typing import Any

from tfps import env
from tfps.cluster.endpoints import Endpoint, check_addresses
from tfps.cluster.spec import ClusterSpec
from tfps.errors import ConfigError
from tfps.jobs import CHIEF, JOBS
from tfps.types import JSON

_EVALUATOR_HINT = (
    "An evaluator must stay outside a parameter-server cluster, whose chief would wait for it for ever: start it as "
    "a program of its own, without TF_CONFIG, that reads the checkpoints"
)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """One task's view of the cluster.

    Args:
        cluster: where every task is; it has a chief.
        task_type: "chief", "worker" or "ps".
        task_index: this task's position in `cluster`'s list for its type, from 0.

    Raises:
        ConfigError: the type is unknown, the cluster has no chief, or the index is not in its list.
    """

    cluster: ClusterSpec
    task_type: str
    task_index: int

    def __post_init__(self) -> None:
        """Checks that the task is one of the cluster's."""
        if not self.cluster.endpoints(CHIEF):
            raise ConfigError(f"`cluster.chief` must list one address. Received: {self.cluster.as_dict()!r}.")
        _check_task_type(self.task_type)
        _check_task_index(self.task_index, self.task_type, len(self.cluster.endpoints(self.task_type)))

    @property
    def name(self) -> str:
        """The task's name in messages and logs: "worker 0"."""
        return f"{self.task_type} {self.task_index}"

    @property
    def endpoint(self) -> Endpoint:
        """Where this task listens, and where others dial it."""
        return self.cluster.endpoints(self.task_type)[self.task_index]

    def to_json(self) -> str:
        """The TF_CONFIG text that parses to this task."""
        task = {"type": self.task_type, "index": self.task_index}
        return json.dumps({"cluster": self.cluster.as_dict(), "task": task})


def from_environment() -> TaskConfig | None:
    """The task this process is according to TF_CONFIG, None if that is unset.

    Raises:
        ConfigError: TF_CONFIG is set and breaks a rule.
    """
    text = env.tf_config()
    return None if text is None else parse_tf_config(text)


def parse_tf_config(text: str) -> TaskConfig:
    """Parses and checks the text of a TF_CONFIG.

    Keys that TensorFlow knows and a parameter-server cluster does not need ("environment") are ignored.

    Raises:
        ConfigError: naming the key, what it holds and what is valid.
    """
    # All errors of a parse get one prefix: the rules below are also used on a cluster that came from elsewhere.
    try:
        config = _object("the whole text", _load(text))
        _check_rpc_layer(config.get("rpc_layer", "grpc"))
        cluster = _parse_cluster(_object("cluster", _required(config, "cluster", "")))
        task = _object("task", _required(config, "task", ""))
        return TaskConfig(cluster, _required(task, "type", "task."), _required(task, "index", "task."))
    except ConfigError as error:
        raise ConfigError(f"TF_CONFIG: {error}") from None


def _load(text: str) -> JSON:
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"it must be JSON, but {error.msg} at {where}. Received: {_short(text)}.") from None


def _without_doubles(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    # json keeps the last of two equal keys in silence: half of the workers would go missing.
    keys = [key for key, _ in pairs]
    doubled = sorted({key for key in keys if keys.count(key) > 1})
    if doubled:
        raise ConfigError(f"every key must appear once in its object. Received: {doubled[0]!r} more than once.")
    return dict(pairs)


def _object(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"`{key}` must be a JSON object. Received: {_short(value)}.")
    return value


def _required(holder: dict[str, Any], key: str, path: str) -> Any:
    if key not in holder:
        valid = {"cluster": "the jobs and their addresses", "task": 'this process, {"type": "worker", "index": 0}'}
        what = valid.get(key, "one of chief, worker, ps" if key == "type" else "the task's position from 0")
        raise ConfigError(f"`{path}{key}` must be given: {what}. Received keys: {sorted(holder)}.")
    return holder[key]


def _check_rpc_layer(layer: object) -> None:
    if layer != "grpc":
        raise ConfigError(f'`rpc_layer` must be "grpc" or left out. Received: {layer!r}.')


def _parse_cluster(jobs: dict[str, Any]) -> ClusterSpec:
    # Unknown jobs first: a misspelt "workers" would otherwise be reported as a missing "worker".
    for job in jobs:
        _check_job(job)
    for job in JOBS:
        check_addresses(f"cluster.{job}", jobs.get(job, []))
        if not jobs.get(job):
            raise ConfigError(f"`cluster.{job}` must list at least one address. Received: {_short(jobs)}.")
    return ClusterSpec(**{job: tuple(jobs[job]) for job in JOBS})


def _check_job(job: str) -> None:
    if job == "evaluator":
        raise ConfigError(f"`cluster.evaluator` must be left out. {_EVALUATOR_HINT}. Received: 'evaluator'.")
    if job == "master":
        raise ConfigError(f"`cluster.master` must be named \"{CHIEF}\", as TensorFlow 2 calls it. Received: 'master'.")
    if job not in JOBS:
        raise ConfigError(f"`cluster` must hold the jobs {', '.join(JOBS)} alone. Received: {job!r}.")


def _check_task_type(task_type: object) -> None:
    if task_type == "evaluator":
        raise ConfigError(f"`task.type` must be one of {', '.join(JOBS)}. {_EVALUATOR_HINT}. Received: 'evaluator'.")
    if task_type not in JOBS:
        hint = ' TensorFlow 1\'s "master" is named "chief" now.' if task_type == "master" else ""
        raise ConfigError(f"`task.type` must be one of {', '.join(JOBS)}.{hint} Received: {task_type!r}.")


def _check_task_index(index: object, task_type: str, count: int) -> None:
    if isinstance(index, bool) or not isinstance(index, int):
        raise ConfigError(f"`task.index` must be an integer from 0. Received: {index!r}.")
    if not 0 <= index < count:
        valid = "0" if count == 1 else f"0 to {count - 1}"
        raise ConfigError(
            f"`task.index` must be {valid}: `cluster.{task_type}` lists {count} address{'es' * (count > 1)}. "
            f"Received: {index}."
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
