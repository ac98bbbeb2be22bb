"""The decision, for models of 1 MB to 1 TB on machines that are made up."""

import dataclasses
import json

import pytest

from tfps.choice import constants
from tfps.choice.candidates import MIRRORED, MULTI, ONE, SERVERS, bytes_ratio
from tfps.choice.decide import decide
from tfps.choice.footprint import Footprint, StepCounts
from tfps.choice.hardware import Site
from tfps.errors import ConfigError
from tfps.placement.spec import VariableSpec

MB, GB, TB = 10**6, 10**9, 10**12
HOST = Site(host_bytes=64e9, cores=16)
CARD = dataclasses.replace(HOST, cards=1, card_bytes=16e9)
CARDS = dataclasses.replace(HOST, cards=8, card_bytes=16e9)
HOSTS = dataclasses.replace(HOST, hosts=8, workers=8)
CARD_HOSTS = dataclasses.replace(CARDS, hosts=4, workers=4, bandwidth=12.5e9)


def model(dense=0, tables=0, *, slots=1, width=16, ids=512 * 26, batch=512, working=MB, flops=None):
    """A model of some bytes in dense variables and in a table, without slots."""
    specs = [VariableSpec("kernel", (dense // 4,), slots=slots)] if dense else []
    if tables:
        rows = tables // (4 * width)
        specs.append(VariableSpec("table", (rows, width), slots=slots, rows_per_step=ids, is_table=True))
    flops = 6.0 * batch * (dense // 4) if flops is None else flops
    return Footprint(batch, tuple(specs), StepCounts(working, 0, flops, 60, 4 * working))


# Sizes are without slots; one slot doubles them.
CASES = [
    # One host.
    ("a small dense model", model(MB), HOST, ONE),
    ("a small click model", model(2 * MB, 40 * MB), HOST, ONE),
    ("a dense model of a card", model(GB), CARD, ONE),
    ("the same on eight cards", model(GB, flops=1e13), CARDS, MIRRORED),
    ("tables that fit the cards", model(10 * MB, GB, flops=1e12), CARDS, MIRRORED),
    ("tables that no card holds", model(2 * MB, 20 * GB), CARDS, SERVERS),
    ("tables that the host holds", model(2 * MB, 20 * GB), HOST, ONE),
    ("tables that the host does not hold", model(2 * MB, 100 * GB), HOST, SERVERS),
    ("a terabyte", model(2 * MB, TB), HOST, SERVERS),
    # Several hosts.
    ("a dense model on hosts", model(100 * MB, flops=1e13), HOSTS, MULTI),
    ("the same with cards", model(GB, flops=1e14), CARD_HOSTS, MULTI),
    ("a mostly dense model with a table", model(100 * MB, 100 * MB, flops=1e12), HOSTS, MULTI),
    ("mostly rows", model(100_000, GB, width=64, ids=512 * 200, working=50 * MB), HOSTS, SERVERS),
    ("tables that no host holds", model(2 * MB, 100 * GB), HOSTS, SERVERS),
    ("a terabyte on hosts", model(2 * MB, TB), dataclasses.replace(HOSTS, hosts=64, workers=64), SERVERS),
    ("a tiny step on a slow network", model(100 * MB, batch=1), dataclasses.replace(HOSTS, bandwidth=1e7), ONE),
]


@pytest.mark.parametrize(("footprint", "site", "choice"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_choice(footprint, site, choice):
    explanation = decide(footprint, site)
    assert explanation.choice == choice, str(explanation)
    assert explanation.reasons and explanation.chosen.examples_per_s > 0
    assert choice in explanation.summary() and choice in str(explanation)
    # Every number is there, and JSON has them all.
    values = json.loads(explanation.to_json())
    assert values["choice"] == choice
    assert {candidate["strategy"] for candidate in values["candidates"]} >= {"CentralStorageStrategy", "TPUStrategy"}
    assert all(candidate["why_not"] for candidate in values["candidates"] if not candidate["is_possible"])


@pytest.mark.parametrize("tables", [10 * MB, GB, 10 * GB, 100 * GB, TB, 4 * TB])
@pytest.mark.parametrize("site", [HOST, CARD, CARDS, HOSTS, CARD_HOSTS], ids=["host", "card", "cards", "hosts", "both"])
def test_larger_tables_never_leave_parameter_servers(tables, site):
    """What does not fit goes to parameter servers, whatever else, and what is chosen fits."""
    footprint = model(2 * MB, tables)
    explanation = decide(footprint, site)
    fits = footprint.replica_bytes <= site.device_limit(1)
    if not fits:
        assert explanation.choice == SERVERS
        assert "do not fit" in explanation.reasons[0]
    chosen = explanation.chosen
    assert chosen.device_bytes <= chosen.device_limit_bytes
    # Too few hosts for a choice are named; with as many as it names, it can start.
    if explanation.refusal:
        assert explanation.refusal.startswith("`hosts` must be at least ")
        needed = int(explanation.refusal.split()[5])
        more = dataclasses.replace(site, hosts=needed, workers=needed)
        assert decide(footprint, more).refusal == ""
        fewer = dataclasses.replace(site, hosts=needed - 1, workers=needed - 1)
        assert decide(footprint, fewer).refusal or site.hosts == 1 == needed - 1


def test_on_hosts_bytes_decide_between_all_reduce_and_servers():
    """With more and more rows, all-reduce moves more and more; the choice changes once, where the bytes cross."""
    choices, ratios = [], []
    for ids in (100, 1000, 10_000, 100_000, 1_000_000):
        explanation = decide(model(MB, 4 * GB, width=64, ids=ids, flops=5e12), HOSTS)
        choices.append(explanation.choice)
        ratios.append(bytes_ratio(explanation.footprint, HOSTS, {c.strategy: c for c in explanation.candidates}))
    assert ratios == sorted(ratios)
    assert choices[0] == MULTI and choices[-1] == SERVERS
    assert choices == sorted(choices)


def test_without_tables_parameter_servers_are_never_possible():
    for site in (HOST, CARD, CARDS, HOSTS, CARD_HOSTS):
        candidate = decide(model(MB), site).candidate(SERVERS)
        assert not candidate.is_possible and "no tables" in candidate.why_not


# Borderlines.


def test_a_replica_that_barely_fits_is_a_borderline():
    limit = CARD.device_limit(1)
    for part, is_borderline in ((0.5, False), (0.9, True), (0.99, True)):
        # A slot and a gradient: three times the variables.
        footprint = model(int(part * limit / 3), working=0)
        explanation = decide(footprint, CARD)
        assert explanation.choice == ONE
        assert explanation.is_borderline == is_borderline
    assert "of what a card has for it" in explanation.borderlines[0]
    assert "(a borderline)" in explanation.summary() and "Borderline:" in str(explanation)


def test_tables_that_barely_do_not_fit_are_a_borderline():
    limit = CARD.device_limit(1)
    near, far = (decide(model(MB, int(part * limit / 2)), CARD) for part in (1.1, 3))
    assert near.choice == far.choice == SERVERS
    assert near.is_borderline and not far.is_borderline


def test_predictions_that_are_close_are_a_borderline():
    footprint = model(10 * MB, flops=6e9)
    ratios = []
    for bandwidth in (1e7, 3e7, 1e8, 3e8, 1e9):
        explanation = decide(footprint, dataclasses.replace(HOSTS, bandwidth=bandwidth))
        ratio = explanation.candidate(MULTI).examples_per_s / explanation.candidate(ONE).examples_per_s
        # Of the strategy that is not chosen, by the one that is.
        is_close = (1 / ratio if explanation.choice == MULTI else ratio) > 1 / constants.BORDER
        assert any("times as fast" in text for text in explanation.borderlines) == is_close
        ratios.append(ratio)
    assert ratios == sorted(ratios) and ratios[0] < 0.8 and ratios[-1] > 1.25


# What others have started.


def test_the_servers_of_tf_config_are_used():
    site = dataclasses.replace(HOSTS, servers=2, fixed="TF_CONFIG")
    explanation = decide(model(2 * MB, 40 * MB), site)
    assert explanation.choice == SERVERS and explanation.chosen.servers == 2
    assert not explanation.refusal and "TF_CONFIG has 2 parameter servers" in explanation.reasons[0]


def test_servers_without_anything_to_hold_are_refused():
    with pytest.raises(ConfigError, match=r"`cluster.ps` of TF_CONFIG must be left out.*no tables.*Received: 2"):
        decide(model(MB), dataclasses.replace(HOSTS, servers=2, fixed="TF_CONFIG"))


def test_without_servers_the_workers_of_tf_config_all_reduce():
    site = dataclasses.replace(HOSTS, fixed="TF_CONFIG", bandwidth=1e6)
    explanation = decide(model(100 * MB), site)
    assert explanation.choice == MULTI
    # One host would be faster, and it says so.
    assert any("under OneDeviceStrategy" in reason for reason in explanation.reasons)


def test_tables_that_do_not_fit_need_servers_in_tf_config():
    explanation = decide(model(MB, 100 * GB), dataclasses.replace(HOSTS, fixed="TF_CONFIG"))
    assert explanation.choice == SERVERS
    assert explanation.refusal.startswith("`cluster.ps` of TF_CONFIG must list parameter servers")


def test_a_mode_of_parameter_servers_is_their_choice():
    for measured in (model(MB), model(MB, GB)):
        explanation = decide(dataclasses.replace(measured, mode="Sync"), HOST)
        assert explanation.choice == SERVERS and "Sync mode" in explanation.reasons[0]
        assert not explanation.candidate(ONE).is_possible and not explanation.refusal
        assert decide(
            dataclasses.replace(measured, mode="Geo"), dataclasses.replace(HOSTS, servers=2, fixed="x")
        ).choice
    explanation = decide(dataclasses.replace(model(MB), mode="Geo"), dataclasses.replace(HOSTS, fixed="TF_CONFIG"))
    assert "must list parameter servers for an optimizer in Geo mode" in explanation.refusal


# What no strategy can do.


@pytest.mark.parametrize("site", [CARD, CARDS, CARD_HOSTS])
def test_a_card_that_holds_no_replica_is_refused(site):
    with pytest.raises(ConfigError, match=r"`card_bytes` must hold one replica, 30.\d GB.*Received: 16.0 GB") as caught:
        decide(model(10 * GB), site)
    assert "cards=0" in str(caught.value)


def test_the_message_says_which_batch_would_fit():
    with pytest.raises(
        ConfigError, match="`card_bytes` must hold one replica without its tables.*batch of at most"
    ) as caught:
        decide(model(MB, TB, batch=1000, working=140 * GB), CARD)
    batch = int(str(caught.value).split("a batch of at most ")[1].split(";")[0])
    assert batch == pytest.approx(100, abs=4)


def test_a_host_that_holds_no_replica_is_refused():
    with pytest.raises(ConfigError, match=r"`host_bytes` must hold one replica, 3.0 TB"):
        decide(model(TB), HOST)


def test_tables_need_an_optimizer_that_updates_rows():
    footprint = dataclasses.replace(model(MB, TB), row_wise=False)
    with pytest.raises(
        ConfigError, match="`host_bytes` must hold one replica, .*an optimizer that updates single rows"
    ):
        decide(footprint, HOST)


def test_what_was_assumed_is_said():
    unknown = dataclasses.replace(VariableSpec("t", (10**6, 16), is_table=True))
    footprint = Footprint(8, (unknown,), StepCounts(guessed=2, endless=True))
    text = " ".join(decide(footprint, CARD_HOSTS).assumptions)
    for part in (
        "cards of 10 TFLOP/s",
        "512 looked-up rows a step of ['t']",
        "dimensions of 2 tensors",
        "one turn of a loop",
    ):
        assert part in text
    assert decide(model(MB), HOSTS).assumptions[0].startswith("1.2 GB a second between hosts")
    assert decide(model(MB), HOST).assumptions == ()


def test_a_name_that_is_no_strategy_is_refused():
    with pytest.raises(KeyError, match="'Mirrored'; valid: .*'MirroredStrategy'"):
        decide(model(MB), HOST).candidate("Mirrored")
