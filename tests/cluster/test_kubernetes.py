"""The manifest for Kubernetes: valid for its schemas, and the pods' TF_CONFIG fits the names that Kubernetes gives."""

import json

import pytest

from tfps.cli import launch
from tfps.cluster.environments.kubernetes import Deployment
from tfps.cluster.tf_config import parse_tf_config
from tfps.errors import ConfigError

PROGRAM = ("train.py", "--lr", "0.1", "--title", 'it\'s "$(HOME)" # 5$: é', "--empty", "", "--no", "no")
DEPLOYMENT = {"program": PROGRAM, "image": "registry.example.com/train:1", "name": "ads", "num_ps": 2, "num_workers": 3}


def read(text):
    """The objects of a manifest, by kind and name."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, of kubernetes-validate")
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}


def pods(objects):
    """Of each pod: its host, as Kubernetes forms it, the TF_CONFIG that it gets, and its container."""
    for (kind, name), one in objects.items():
        if kind == "Service":
            continue
        jobs = {f"{name}-{job['name']}-0": job["template"]["spec"] for job in one["spec"].get("replicatedJobs", [])}
        for prefix, spec in (jobs or {name: one["spec"]}).items():
            pod = spec["template"]["spec"]
            (container,) = pod["containers"]
            for index in range(spec.get("replicas") or spec["completions"]):
                values = {variable["name"]: variable.get("value") for variable in container["env"]}
                text = values["TF_CONFIG"].replace("$(TASK_INDEX)", str(index))
                yield f"{prefix}-{index}.{pod['subdomain']}:2222", parse_tf_config(text), container


@pytest.mark.parametrize("jobset", [False, True])
def test_every_task_has_a_pod_at_its_address(jobset):
    found = list(pods(read(Deployment(**DEPLOYMENT, jobset=jobset).manifest())))
    assert sorted(config.name for _, config, _ in found) == [
        *("chief 0", "ps 0", "ps 1", "worker 0", "worker 1", "worker 2")
    ]
    assert len({config.cluster for _, config, _ in found}) == 1
    for address, config, container in found:
        assert config.endpoint.dial == address
        assert [variable["name"] for variable in container["env"]][:2] == ["TASK_INDEX", "TF_CONFIG"]
        assert tuple(part.replace("$$", "$") for part in container["command"][2:]) == PROGRAM


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.34"])
def test_the_manifest_is_valid(version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    objects = read(Deployment(**DEPLOYMENT).manifest())
    names = {("Service", "ads"), ("StatefulSet", "ads-ps"), ("Job", "ads-worker"), ("Job", "ads-chief")}
    assert set(objects) == names
    for one in objects.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_jobs_of_a_job_set_are_valid():
    """The schemas have no JobSet, but the Jobs in it."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    (job_set,) = read(Deployment(**DEPLOYMENT, jobset=True).manifest()).values()
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for job in job_set["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        kubernetes_validate.validate(whole, "1.31", strict=True)


def test_pods_are_selected_by_their_own_owner_alone():
    objects = read(Deployment(**DEPLOYMENT).manifest())
    owners = {name: one["spec"] for (kind, name), one in objects.items() if kind != "Service"}
    labels = {name: spec["template"]["metadata"]["labels"] for name, spec in owners.items()}
    servers = objects["StatefulSet", "ads-ps"]["spec"]["selector"]["matchLabels"]
    assert [name for name, of_pod in labels.items() if servers.items() <= of_pod.items()] == ["ads-ps"]
    service = objects["Service", "ads"]["spec"]["selector"]
    assert all(service.items() <= of_pod.items() for of_pod in labels.values())


@pytest.mark.parametrize("jobset", [False, True])
def test_each_pod_serves_its_metrics(jobset):
    objects = read(Deployment(**DEPLOYMENT, jobset=jobset, metrics_port=9100).manifest())
    containers = [container for *_, container in pods(objects)]
    assert len(containers) == 6
    for container in containers:
        values = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert (values["TFPS_METRICS_PORT"], values["TFPS_METRICS_HOST"]) == ("9100", "0.0.0.0")
        assert {"name": "metrics", "containerPort": 9100} in container["ports"]
    text = json.dumps(list(objects.values()))
    assert text.count('{"prometheus.io/scrape": "true", "prometheus.io/port": "9100"}') == 3
    if not jobset:
        kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
        for one in objects.values():
            kubernetes_validate.validate(one, "1.31", strict=True)
    # Without the flag nothing of it is there.
    assert "METRICS" not in Deployment(**DEPLOYMENT, jobset=jobset).manifest()


def test_the_command_prints_the_manifest(monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{")  # no task of this machine, so not read
    arguments = ["--kubernetes", "--image", DEPLOYMENT["image"], "--name", "ads", "--ps", "2", "--workers", "3"]
    assert launch.main([*arguments, *PROGRAM]) == 0
    assert capsys.readouterr().out == Deployment(**DEPLOYMENT).manifest()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kubernetes", "train.py"], "`--image` must be the name of an image"),
        (["--kubernetes", "--image", "a b", "train.py"], "`--image` must be the name of an image"),
        (["--kubernetes", "--image", "a"], "`program` must be given"),
        (["--kubernetes", "--image", "a", "--name", "Ads", "train.py"], "`--name` must be a name for Kubernetes"),
        (["--kubernetes", "--image", "a", "--name", "", "train.py"], "`--name` must be a name for Kubernetes"),
        (["--kubernetes", "--image", "a", "--log-dir", "logs", "train.py"], "`--log-dir` must be left out"),
        (["--image", "a", "train.py"], "`--image` must be given with --kubernetes only. Received: 'a'"),
        (["--jobset", "train.py"], "`--jobset` must be given with --kubernetes only"),
    ],
)
def test_wrong_flags(arguments, words, capsys):
    assert launch.main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"num_ps": 0}, {"num_workers": -1}, {"name": "a" * 41}, {"name": "a-"}])
def test_wrong_deployments(changes):
    with pytest.raises(ConfigError, match="must be .*Received: "):
        Deployment(**DEPLOYMENT | changes)
