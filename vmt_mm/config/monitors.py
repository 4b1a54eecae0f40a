"""What goes by a result of the validation: the best checkpoint, early stopping, schedules.

Each names one (``save_best``, ``monitor``) and may say which way it is better (``rule``). Metrics
declare that, so the runner derives the rule here, and a key that no validation has is found before
a training. A config keeps what its user wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from vmt_mm.config.known_keys import find_kinds, parameters_of
from vmt_mm.config.tree import dataset_metainfo, typed_in
from vmt_mm.evaluation.directions import Results, results_of
from vmt_mm.registry import HOOKS, PARAM_SCHEDULERS

#: Arguments that name results of the validation.
_NAMING = ("save_best", "monitor")
#: Where such components stand, and what they are.
_PLACES = dict(default_hooks=HOOKS, custom_hooks=HOOKS, param_scheduler=PARAM_SCHEDULERS)
#: Arguments of mmengine's checkpoint hook by which it would guess the rule.
_GUESSES = ("greater_keys", "less_keys")


@dataclass
class _Chooser:
    """One component.

    Attributes:
        place: its path in the config.
        node: its config.
        name: the argument that names results.
        keys: the results.
        rules: the rule that the config gives for each key, or None.
    """

    place: str
    node: MutableMapping[str, Any]
    name: str
    keys: list[str]
    rules: list[str | None]


def derive_rules(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a config that go by results, with the rules that metrics declare.

    ``auto`` becomes the first result, as it is in mmengine.

    Args:
        cfg: a config, or the runner's arguments; left as it is.
    """
    derived = {place: _copied(cfg[place]) for place in _PLACES if cfg.get(place)}
    results = None
    for chooser in _choosers({**cfg, **derived}):
        results = results or _results(cfg)
        keys = _resolved(chooser.keys, results)
        if chooser.keys == ["auto"]:
            chooser.node[chooser.name] = keys[0]
        rules = [results.direction(key) for key in keys]
        if all(rules):
            listed = isinstance(chooser.node.get(chooser.name), (list, tuple))
            chooser.node["rule"] = rules if listed else rules[0]
    return derived


def _resolved(keys: list[str], results: Results) -> list[str]:
    """The keys; ``auto`` is the first result, where it is known."""
    first = next(iter(results.keys), None)
    return [first] if keys == ["auto"] and first and not results.open else keys


def _copied(node: Any) -> Any:
    """A copy of the containers; what they hold, built hooks for one, stays the same."""
    if isinstance(node, dict):
        return type(node)({key: _copied(value) for key, value in node.items()})
    return [_copied(x) for x in node] if isinstance(node, (list, tuple)) else node


def rule_faults(cfg: Mapping[str, Any], training: bool) -> Iterator[str]:
    """What is wrong with the results that components go by, in one line each.

    Args:
        cfg: a config, or the runner's arguments.
        training: whether one is to run; only then a Delta that will not be there matters.
    """
    results = None
    for chooser in _choosers(cfg):
        results = results or _results(cfg)
        place = f"{chooser.place}.{chooser.name}"
        if len(chooser.rules) != len(chooser.keys):
            yield f"{chooser.place}.rule: {len(chooser.rules)} rules for {len(chooser.keys)} keys"
            continue
        for key, rule in zip(_resolved(chooser.keys, results), chooser.rules, strict=True):
            direction = results.direction(key)
            near = results.nearest(key)
            hint = f"; did you mean {near!r}?" if near else ""
            if key in results.missing:
                if training:
                    yield (
                        f"{place}: {results.missing[key]} and so no {key}; set {place} to a task's "
                        f"metric{f', such as {near!r}' * bool(near)}"
                    )
            elif direction and rule not in (None, direction):
                yield (
                    f"{chooser.place}.rule: {rule!r} for {key!r}, of which {direction} is better, "
                    "as its metric declares; leave `rule` out, or set it to None"
                )
            elif direction and any(chooser.node.get(name) for name in _GUESSES):
                yield f"{chooser.place}: {key!r} declares its rule; leave out {', '.join(_GUESSES)}"
            elif not direction and key in results.keys:
                yield f"{place}: {key!r} does not measure quality{hint}"
            elif not direction and not results.may_have(key):
                yield f"{place}: no metric of the validation writes {key!r}{hint}"
            elif not direction and rule is None:
                yield (
                    f"{place}: the metric that writes {key!r} does not declare which way it is "
                    f"better; set {chooser.place}.rule to 'greater' or 'less'"
                )


def _choosers(cfg: Mapping[str, Any]) -> Iterator[_Chooser]:
    """Every component that goes by a result."""
    if not cfg.get("val_evaluator"):
        return
    for place, registry in _PLACES.items():
        for path, node in typed_in(cfg.get(place), place):
            for kind in find_kinds(node["type"], [registry]):
                known, _ = parameters_of(kind)
                for name in set(_NAMING) & known if "rule" in known else ():
                    keys = node.get(name, _default(kind, name))
                    keys = [keys] if isinstance(keys, str) else list(keys or ())
                    rules = node.get("rule")
                    rules = [rules] if rules is None or isinstance(rules, str) else list(rules)
                    rules = rules * len(keys) if len(rules) == 1 else rules
                    if keys:
                        yield _Chooser(path, node, name, keys, rules)


def _default(kind: type, name: str) -> Any:
    """The default of an argument, wherever in the class's line it stands."""
    for owner in kind.__mro__:
        function = vars(owner).get("__init__")
        parameter = inspect.signature(function).parameters.get(name) if function else None
        if parameter is not None:
            return None if parameter.default is inspect.Parameter.empty else parameter.default
    return None


def _results(cfg: Mapping[str, Any]) -> Results:
    return results_of(cfg["val_evaluator"], dataset_metainfo(cfg.get("val_dataloader")))
