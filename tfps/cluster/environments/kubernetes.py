"""Writes the Kubernetes manifest of a cluster. Every pod gets a TF_CONFIG, and so needs no rule of its own.

Kubernetes gives each pod of a StatefulSet, an Indexed Job or a JobSet a host name that ends in its index, and puts the
index into an environment variable that TF_CONFIG refers to. So all addresses are known when the manifest is written.

Pure functions and immutable values; the text needs no YAML library.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping

from tfps import jobs
from tfps.checks import check_integer
from tfps.cluster.spec import ClusterSpec
from tfps.cluster.tf_config import TaskConfig
from tfps.errors import ConfigError
from tfps.types import JSON

_PORT = 2222
_JOIN_TIMEOUT_S = 600
"""Pods wait this long for one another: nodes may have to pull the image first."""
_RESTARTS = 100
"""A worker may be restarted this often before its Job, and so all workers, fail. A run goes on without it."""

_INDEX = "TASK_INDEX"
_POD_INDEX = "metadata.labels['apps.kubernetes.io/pod-index']"
_COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A program and the cluster that Kubernetes runs it on.

    Args:
        program: a Python file in the image, or a command, then its arguments.
        image: the container image, which has the program and tfps.
        name: the name of the objects, and the first part of the pods' host names.
        num_ps: parameter servers, at least 1.
        num_workers: workers, at least 1.
        jobset: whether one JobSet describes all tasks, rather than a StatefulSet and two Jobs.
        metrics_port: the port at which each pod serves metrics, with the annotations by which many installations of
            Prometheus find it; None for none.

    Raises:
        ConfigError: an argument breaks its rule.
    """

    program: tuple[str, ...]
    image: str
    name: str
    num_ps: int
    num_workers: int
    jobset: bool = False
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        """Checks the fields, as Kubernetes would, before anything is written."""
        if not self.program:
            raise ConfigError("`program` must be given: a Python file in the image, and its arguments. Received: none.")
        if not self.image or self.image.split() != [self.image]:
            raise ConfigError(
                '`--image` must be the name of an image such as "registry.example.com/train:1", which has the program '
                f"and tfps. Received: {self.image!r}."
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                "`--name` must be a name for Kubernetes: a lower-case letter, and up to 39 lower-case letters, digits "
                f"and dashes, not a dash at the end. Received: {self.name!r}."
            )
        for argument, value in (("--ps", self.num_ps), ("--workers", self.num_workers)):
            check_integer(argument, value, at_least=1)
        port = self.metrics_port
        if port is not None and (not 1 <= port <= 65535 or port == _PORT):
            raise ConfigError(
                f"`--metrics-port` must be a port from 1 to 65535, and not {_PORT}, at which tasks listen. "
                f"Received: {port}."
            )

    def manifest(self) -> str:
        """Returns the manifest as YAML, for `kubectl apply -f -`."""
        objects = [_job_set(self)] if self.jobset else [_service(self), _servers(self), _workers(self), _chief(self)]
        return "---\n".join("".join(f"{line}\n" for line in _yaml_lines(one)) for one in objects)

    def cluster(self) -> ClusterSpec:
        """Returns the addresses of all pods."""
        # A JobSet may run a job several times, so its host names have the number of the job, too.
        middle = "-0" if self.jobset else ""
        counts = {jobs.CHIEF: 1, jobs.PS: self.num_ps, jobs.WORKER: self.num_workers}
        return ClusterSpec(
            **{
                job: tuple(f"{self.name}-{job}{middle}-{index}.{self.name}:{_PORT}" for index in range(count))
                for job, count in counts.items()
            }
        )


def _service(deployment: Deployment) -> dict[str, JSON]:
    """Returns the headless service that gives the pods their host names."""
    spec = {
        "clusterIP": "None",
        # Tasks look one another up before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": _labels(deployment),
        "ports": [{"name": "grpc", "port": _PORT}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(deployment, deployment.name), "spec": spec}


def _servers(deployment: Deployment) -> dict[str, JSON]:
    labels = _labels(deployment) | {"tfps/job": jobs.PS}
    spec = {
        "serviceName": deployment.name,
        "replicas": deployment.num_ps,
        # In order, the second would wait until the first is ready.
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels},
        "template": _pod(deployment, jobs.PS, _POD_INDEX, "Always"),
    }
    metadata = _metadata(deployment, f"{deployment.name}-{jobs.PS}")
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}


def _workers(deployment: Deployment) -> dict[str, JSON]:
    return _job(deployment, jobs.WORKER, _indexed_job(deployment, jobs.WORKER))


def _chief(deployment: Deployment) -> dict[str, JSON]:
    return _job(deployment, jobs.CHIEF, _indexed_job(deployment, jobs.CHIEF))


def _job(deployment: Deployment, job: str, spec: JSON) -> dict[str, JSON]:
    metadata = _metadata(deployment, f"{deployment.name}-{job}")
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _job_set(deployment: Deployment) -> dict[str, JSON]:
    replicated = [
        {"name": job, "replicas": 1, "template": {"spec": _indexed_job(deployment, job)}}
        for job in (jobs.CHIEF, jobs.PS, jobs.WORKER)
    ]
    spec = {
        "network": {"enableDNSHostnames": True, "subdomain": deployment.name, "publishNotReadyAddresses": True},
        # The pods of servers and workers end with the chief.
        "successPolicy": {"operator": "All", "targetReplicatedJobs": [jobs.CHIEF]},
        "failurePolicy": {"maxRestarts": 0},
        "replicatedJobs": replicated,
    }
    metadata = _metadata(deployment, deployment.name)
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}


def _indexed_job(deployment: Deployment, job: str) -> dict[str, JSON]:
    """Returns the specification of a Job that has one pod for each task of a job of ours."""
    count = len(deployment.cluster().endpoints(job))
    # The run ends with its chief or a server. A worker that dies does not end it, and must not end the other workers.
    is_worker = job == jobs.WORKER
    pod = _pod(deployment, job, _COMPLETION_INDEX, "OnFailure" if is_worker else "Never")
    return {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": count,
        "backoffLimit": _RESTARTS if is_worker else 0,
        "template": pod,
    }


def _pod(deployment: Deployment, job: str, index_field: str, restart: str) -> dict[str, JSON]:
    """Returns the template of the pods of one job of ours.

    Args:
        deployment: the deployment.
        job: "chief", "worker" or "ps".
        index_field: the field of the pod that has its index.
        restart: the restart policy of its container.
    """
    environment: list[JSON] = [
        # Before TF_CONFIG: Kubernetes replaces only names that it has seen.
        {"name": _INDEX, "valueFrom": {"fieldRef": {"fieldPath": index_field}}},
        {"name": "TF_CONFIG", "value": _tf_config(deployment.cluster(), job)},
        {"name": "TFPS_JOIN_TIMEOUT_S", "value": str(_JOIN_TIMEOUT_S)},
    ]
    ports: list[JSON] = [{"containerPort": _PORT}]
    metadata: dict[str, JSON] = {"labels": {**_labels(deployment), "tfps/job": job}}
    if (port := deployment.metrics_port) is not None:
        # Prometheus comes from another pod. Each pod has an address of its own, so all have the same port.
        environment.append({"name": "TFPS_METRICS_PORT", "value": str(port)})
        environment.append({"name": "TFPS_METRICS_HOST", "value": "0.0.0.0"})
        ports.append({"name": "metrics", "containerPort": port})
        metadata["annotations"] = {"prometheus.io/scrape": "true", "prometheus.io/port": str(port)}
    container: dict[str, JSON] = {
        "name": job,
        "image": deployment.image,
        # Kubernetes replaces $(NAME) in a command, and takes two dollars for one.
        "command": ["tfps-launch", "--", *(part.replace("$", "$$") for part in deployment.program)],
        "env": environment,
        "ports": ports,
    }
    spec: dict[str, JSON] = {"subdomain": deployment.name, "restartPolicy": restart, "containers": [container]}
    return {"metadata": metadata, "spec": spec}


def _tf_config(cluster: ClusterSpec, job: str) -> str:
    """Returns the TF_CONFIG of every pod of a job, with a reference to the pod's index."""
    text = TaskConfig(cluster, job, 0).to_json()
    before, index, after = text.rpartition('"index": 0')
    return before + index.replace("0", f"$({_INDEX})") + after


def _labels(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/name": deployment.name}


def _metadata(deployment: Deployment, name: str) -> dict[str, JSON]:
    return {"name": name, "labels": {**_labels(deployment)}}


def _yaml_lines(value: JSON, indent: str = "") -> Iterator[str]:
    """Writes a value as YAML."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list):
                yield f"{indent}{key}:"
                yield from _yaml_lines(inner, indent + "  ")
            else:
                yield f"{indent}{key}: {_scalar(inner)}"
    elif isinstance(value, list):
        for item in value:
            first, *others = _yaml_lines(item, indent + "  ") if isinstance(item, Mapping) else [_scalar(item)]
            yield f"{indent}- {first.lstrip()}"
            yield from others


def _scalar(value: JSON) -> str:
    # TF_CONFIG is easier to read between single quotes, where YAML has no escapes but for the quote itself.
    if isinstance(value, str) and '"' in value and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    # What JSON writes is YAML, too.
    return json.dumps(value, ensure_ascii=False)
