"""The metrics of a task and of a job: what Prometheus reads is what was counted, under names as it wants them."""

import json
import pathlib
import re

import pytest

from tests.monitoring.jobs_for_tests import TASKS, full_record, full_snapshot

pytest.importorskip("prometheus_client", reason="needs prometheus-client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tfps.monitoring import metric_families
from tfps.monitoring.metric_families import JobMetrics, TaskMetrics
from tfps.monitoring.record import JobRecord
from tfps.version import __version__

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def registry_of(record, latest=full_snapshot):
    registry = CollectorRegistry()
    registry.register(TaskMetrics("chief", 0))
    registry.register(JobMetrics(record.counts, latest, TASKS))
    return registry


def read(registry):
    """The samples in the text that Prometheus gets: {(name, labels): value}."""
    samples = {}
    for family in parse(generate_latest(registry).decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def exposed_names():
    return {name for name, _ in read(registry_of(full_record()))}


def test_counts_are_those_of_the_record():
    samples = read(registry_of(full_record()))
    assert samples["tfps_steps_total", (("worker", "0"),)] == 8
    assert samples["tfps_steps_total", (("worker", "1"),)] == 4
    assert samples["tfps_examples_total", (("worker", "0"),)] == 506
    assert samples["tfps_unique_rows_total", (("worker", "0"),)] == 1_000
    assert samples["tfps_cache_asked_rows_total", (("worker", "0"),)] == 900
    assert samples["tfps_cache_found_rows_total", (("worker", "0"),)] == 600
    assert samples["tfps_cache_saved_bytes_total", (("worker", "0"),)] == 43_200
    assert samples["tfps_cache_found_rows_total", (("worker", "1"),)] == 0
    assert samples["tfps_closures_total", (("worker", "0"),)] == 2
    assert samples["tfps_staleness_steps", (("worker", "0"),)] == 4
    assert samples["tfps_repeated_steps_total", ()] == 3
    assert samples["tfps_evaluation_steps_total", ()] == 2
    assert samples["tfps_evaluation_examples_total", ()] == 100
    assert samples["tfps_task_losses_total", (("index", "1"), ("task", "worker"))] == 1
    assert samples["tfps_task_restarts_total", (("index", "1"), ("task", "worker"))] == 1
    assert samples["tfps_task_losses_total", (("index", "0"), ("task", "ps"))] == 0
    assert samples["tfps_epochs_total", ()] == 1
    assert samples["tfps_checkpoints_total", ()] == 1
    assert samples["tfps_checkpoint_step", ()] == 12
    assert samples["tfps_checkpoint_write_seconds", ()] == 0.5
    assert samples["tfps_task_info", (("index", "0"), ("task", "chief"), ("version", __version__))] == 1


def test_what_the_snapshot_has():
    samples = read(registry_of(full_record()))
    assert samples["tfps_metric", (("name", "loss"),)] == 0.25
    assert samples["tfps_metric", (("name", "auc"),)] != samples["tfps_metric", (("name", "auc"),)]
    assert samples["tfps_table_rows", (("table", "items/embeddings"),)] == 90
    assert samples["tfps_table_evicted_rows_total", (("table", "items/embeddings"),)] == 10
    assert ("tfps_table_evicted_rows_total", (("table", "users/embeddings"),)) not in samples
    assert samples["tfps_server_stored_bytes", (("server", "1"),)] == 6_400_000
    assert samples["tfps_task_up", (("index", "0"), ("task", "worker"))] == 1
    assert samples["tfps_task_up", (("index", "1"), ("task", "worker"))] == 0
    limits = {dict(labels)["limit"]: value for (name, labels), value in samples.items() if name == "tfps_bottleneck"}
    assert {limit for limit, value in limits.items() if value} == {"servers"} and len(limits) == 5


def test_a_job_that_has_done_nothing_has_its_counters():
    samples = read(registry_of(JobRecord(), latest=lambda: None))
    # A counter that appears late has no increase before it.
    assert samples["tfps_steps_total", (("worker", "1"),)] == 0
    assert samples["tfps_checkpoints_total", ()] == 0
    assert not any(name == "tfps_task_up" for name, _ in samples)


def test_counters_never_go_down():
    record = full_record()
    registry = registry_of(record)
    before = read(registry)
    for number in range(20):
        record.count_closure("train" if number % 3 else "test", number % 2, number, 10 * number)
        record.begin_epoch("geo", 0, None, None)
        after = read(registry)
        for key, value in before.items():
            assert not key[0].endswith("_total") or after[key] >= value, key
        before = after
    steps = sum(value for (name, _), value in before.items() if name == "tfps_steps_total")
    assert steps == record.counts().steps == 12 + sum(number for number in range(20) if number % 3)


def test_names_follow_the_conventions():
    families = list(parse(generate_latest(registry_of(full_record())).decode()))
    assert len(families) > 25
    for family in families:
        assert re.fullmatch(r"tfps_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge")
        # Base units alone, and the unit last.
        for unit in ("seconds", "bytes"):
            assert unit not in family.name or family.name.removesuffix("_total").endswith(f"_{unit}"), family.name
        assert not re.search("_(ms|milliseconds|minutes|kb|mb|megabytes|percent)", family.name)
        assert not family.name.endswith(("_count", "_sum", "_bucket"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert "job" not in sample.labels and "instance" not in sample.labels


def test_open_metrics_parses_too():
    text = generate_openmetrics(registry_of(full_record())).decode()
    names = {sample.name for family in parse_openmetrics(text) for sample in family.samples}
    assert names == exposed_names()


def test_the_documentation_lists_all_of_them_and_no_others():
    text = (DOCS / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(tfps_\w+)` \| (counter|gauge) \| .+ \|$", text, re.MULTILINE)
    names = [name for name, _ in rows]
    assert len(names) == len(set(names))
    network = {"tfps_network_received_bytes_total", "tfps_network_sent_bytes_total"}
    # Where the kernel does not tell, these two are left out.
    assert set(names) - network == exposed_names() - network
    assert all((kind == "counter") == name.endswith("_total") for name, kind in rows)


def test_the_dashboard_asks_for_metrics_that_exist():
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    network = {"tfps_network_received_bytes_total", "tfps_network_sent_bytes_total"}
    asked = set()
    for panel in dashboard["panels"]:
        assert panel["targets"] and panel["title"] and panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            found = re.findall(r"tfps_\w+", target["expr"])
            assert found, target["expr"]
            asked |= set(found)
            # A rate of a gauge, or a bare counter, would draw nonsense.
            for name in found:
                rated = re.search(rf"(rate|increase)\({name}", target["expr"]) is not None
                assert rated == name.endswith("_total"), target["expr"]
            # Each label of a legend is one of the metric.
            labels = {label for name, pairs in read(registry_of(full_record())) if name in found for label, _ in pairs}
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= labels or set(found) <= network, target
    assert asked <= exposed_names() | network
    # Nearly all that there is can be seen.
    assert len(exposed_names() - asked) <= 6, exposed_names() - asked


def test_the_dashboard_is_one_that_grafana_imports():
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    assert dashboard["schemaVersion"] >= 36 and dashboard["id"] is None and dashboard["uid"] and dashboard["title"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] in ("timeseries", "stat", "state-timeline")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "job"} and variables["datasource"]["query"] == "prometheus"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(metric_families.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(metric_families.ConfigError, match=r'prometheus-client: pip install "tfps\[monitoring\]"'):
        metric_families.require_client()
