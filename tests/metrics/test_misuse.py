"""What users and broken models give to metrics: infinite and undefined scores, weights of 0, wrong types and sizes."""

import keras
import numpy as np
import pytest

from tfps import metrics
from tfps.errors import ConfigError, LabelError

INF, NAN = float("inf"), float("nan")


def result_of(metric, *arguments, **more):
    metric.update_state(*arguments, **more)
    found = metric.result()
    return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else float(found)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
@pytest.mark.parametrize("score", [INF, -INF])
def test_equal_infinite_scores_are_ties(labels, score):
    assert result_of(metrics.ExactAUC(), labels, [score] * 4) == 0.5
    assert result_of(metrics.GroupAUC("user"), labels, [score] * 4, groups=[1] * 4) == 0.5


def test_infinite_logits_of_right_labels_have_no_loss():
    assert result_of(metrics.LogLoss(from_logits=True), [1, 0], [INF, -INF]) == 0.0


OF_PROBABILITIES = (metrics.LogLoss, metrics.NormalizedEntropy, metrics.Calibration, metrics.AUC, metrics.ExactAUC)


@pytest.mark.parametrize("make", OF_PROBABILITIES)
def test_what_has_weight_0_counts_for_nothing_also_if_it_is_nan(make):
    labels, scores, weights = [0, 1, 1, 0], [0.2, 0.7, NAN, 0.4], [1.0, 2.0, 0.0, 1.0]
    kept = [0, 1, 3]
    expected = result_of(make(), *(np.take(one, kept) for one in (labels, scores, weights)))
    assert result_of(make(), labels, scores, weights) == pytest.approx(expected, rel=1e-6)
    # One that counts makes the result undefined.
    assert np.isnan(result_of(make(), labels, scores))


def test_a_slice_is_not_spoiled_by_another():
    found = result_of(
        metrics.Sliced(metrics.LogLoss(), by="country", values=["a", "b"]),
        *([1, 0, 1], [0.5, NAN, 0.25]),
        groups=np.array(["a", "b", "c"]),
    )
    assert found["log_loss_country_a"] == pytest.approx(np.log(2)) and np.isnan(found["log_loss_country_b"])
    assert found["log_loss_country_others"] == pytest.approx(np.log(4))


def test_slices_by_two_features_have_names_of_their_own():
    both = [metrics.Sliced(metrics.LogLoss(), by=by, values=[1]) for by in ("country", "user")]
    assert len({part for one in both for part in one.result()}) == 4


@pytest.mark.parametrize("make", OF_PROBABILITIES[:4])
@pytest.mark.parametrize("score", [4.8, -0.1, INF])
def test_logits_where_probabilities_are_wanted_are_named(make, score):
    with pytest.raises(LabelError, match=f"`y_pred` of metric .* must be 0 to 1, or logits with .* Received: {score}"):
        make().update_state([1, 0], [score, 0.5])
    # What rounding adds is no logit.
    assert np.isfinite(result_of(make(), [1, 0], [1.0000001, 0.5]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [0.5, 0.5], [1.0, 1.0, 1.0]), "`sample_weight` of metric 'group_auc' must have one value for each"),
        ((["a", "b"], [0.5, 0.5]), "`y_true` of metric 'group_auc' must be numbers. Received: string"),
        (([1, 0], [0.5, 0.5], None, [1, 2, 3]), "`groups` of metric 'group_auc' must have one value for each"),
        (([1, 0], [0.5, 0.5], None, [1.5, 2.0]), "`groups` of metric 'group_auc' must be integers or strings"),
        (([1, 0], [0.5, 0.5]), "`groups` of metric 'group_auc' must be given"),
    ],
)
def test_wrong_types_and_sizes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        metrics.GroupAUC("user").update_state(*arguments)


@pytest.mark.parametrize("values", [["others", "DE"], [2**63], [-(2**63) - 1]])
def test_values_that_no_slice_can_have_are_refused(values):
    with pytest.raises(ConfigError, match="`values` must"):
        metrics.Sliced(metrics.LogLoss(), by="country", values=values)


def test_groups_of_a_slice_are_integers_or_strings():
    sliced = metrics.Sliced(metrics.LogLoss(), by="country", values=[1])
    with pytest.raises(ConfigError, match="`groups` of metric 'log_loss_country' must be integers or strings"):
        sliced.update_state([1, 0], [0.5, 0.5], groups=[1.5, 1.2])


def test_an_item_of_score_minus_infinity_is_before_the_padding():
    # The last two places of the list are padding: it has two items, and the relevant one is the second.
    labels, scores = np.array([[0.0, 1.0, -1.0, -1.0]]), np.array([[0.3, -INF, 0.9, 0.9]])
    assert result_of(metrics.MeanReciprocalRank(), labels, scores) == 0.5


@pytest.mark.parametrize("kind", ["sliced", "progressive"])
def test_metrics_within_others_are_merged(kind):
    def make():
        if kind == "progressive":
            return metrics.Progressive(metrics.AUC())
        return metrics.Sliced(metrics.AUC(), by="user", values=[1])

    random = np.random.default_rng(0)
    labels, scores, users = random.integers(0, 2, 80), random.random(80), random.integers(0, 3, 80)
    parts, whole = [make(), make()], make()
    more = {"groups": users} if kind == "sliced" else {}
    whole.update_state(labels, scores, **more)
    for part, places in zip(parts, (slice(0, 30), slice(30, 80)), strict=True):
        part.update_state(labels[places], scores[places], **{name: value[places] for name, value in more.items()})
    parts[0].merge_state(parts[1:])
    assert keras.tree.map_structure(float, parts[0].result()) == keras.tree.map_structure(float, whole.result())
    with pytest.raises(ConfigError, match="must be of its class and settings"):
        whole.merge_state([metrics.AUC()])
