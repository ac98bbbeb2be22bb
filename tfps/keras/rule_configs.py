"""Rules of admission and eviction in the config of a layer, in the form that JSON has."""

import dataclasses
from typing import Any, TypeAlias

import keras

from tfps.embedding import admission as admissions
from tfps.embedding import eviction as evictions
from tfps.embedding.admission import Admission
from tfps.embedding.eviction import Eviction
from tfps.errors import ConfigError

Rule: TypeAlias = Admission | Eviction
_RULES: tuple[type[Any], ...] = (
    *(admissions.Always, admissions.Count, admissions.Probability),
    *(evictions.LeastFrequent, evictions.LeastRecent, evictions.Score, evictions.SmallNorm, evictions.Unseen),
)
"""The rules that a config names."""


def rule_config(rule: Rule | None) -> dict[str, Any] | None:
    """Returns a rule in the form that JSON has."""
    if rule is None:
        return None
    if type(rule).__module__ in (admissions.__name__, evictions.__name__):
        # By name, so that a saved model needs no registration of our own rules.
        return {"rule": type(rule).__name__, **dataclasses.asdict(rule)}  # type: ignore[call-overload]
    # A rule of the user, whose class Keras must know.
    return keras.saving.serialize_keras_object(rule)


def rule_of(config: Any) -> Any:
    """Returns the rule that `rule_config` has described; a rule as it is."""
    if not isinstance(config, dict):
        return config
    if "rule" not in config:
        return keras.saving.deserialize_keras_object(config)
    fields = {name: value for name, value in config.items() if name != "rule"}
    known = {one.__name__: one for one in _RULES}
    if config["rule"] not in known:
        raise ConfigError(f"the rule of a config must be one of {sorted(known)}. Received: {config['rule']!r}.")
    return known[config["rule"]](**fields)
