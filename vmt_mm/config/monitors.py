"""Components that monitor a metric: best checkpoint, early stopping, schedules."""

from collections.abc import Iterator, Mapping
from typing import Any

from vmt_mm.config.components import components, parameters_of
from vmt_mm.config.tree import dataset_metainfo
from vmt_mm.evaluation.evaluator import Results, results_of

_PLACES = ("default_hooks", "custom_hooks", "param_scheduler")


def derive_rules(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the parts of ``cfg`` that monitor metrics; set 'auto' keys, and ``rule`` by metric."""
    derived = {place: _copied(cfg[place]) for place in _PLACES if cfg.get(place)}
    for results, _, node, name, keys, _ in _choosers(cfg, derived):
        rules = [results.keys.get(key) for key in keys]
        if node.get(name) == "auto":
            node[name] = keys[0]
        if all(rules):
            node["rule"] = rules if isinstance(node.get(name), (list, tuple)) else rules[0]
    return derived


def rule_faults(cfg: Any, training: bool) -> Iterator[str]:
    """Yield errors in monitored metrics; a missing Delta is an error only in training."""
    for results, path, _, name, keys, rules in _choosers(cfg, cfg):
        place = f"{path}.{name}"
        for key, rule in zip(keys, rules, strict=False):
            direction, near = results.keys.get(key), results.nearest(key)
            hint = f"; did you mean {near!r}?" if near else ""
            if key in results.missing:
                why = f"{results.missing[key]}, so {key} is missing; set {place} to a task's metric"
                yield from [f"{place}: {why}"] * training
            elif direction and rule not in (None, direction):
                why = f"its direction is {direction!r}; remove `rule`"
                yield f"{path}.rule: {rule!r} is wrong for {key!r}: {why}"
            elif not direction and key in results.keys:
                yield f"{place}: {key!r} does not measure quality{hint}"
            elif not direction and not results.may_have(key):
                yield f"{place}: no metric in val_evaluator computes {key!r}{hint}"
            elif not direction and rule is None:
                yield f"{key!r} has no known direction; set {path}.rule to 'greater' or 'less'"


def _choosers(
    cfg: Mapping[str, Any], parts: Mapping[str, Any]
) -> Iterator[tuple[Results, str, Any, str, list[str], list[str | None]]]:
    """Yield metrics, path, config, argument, keys and rules of every monitoring component."""
    if not (evaluator := cfg.get("val_evaluator")):
        return
    results = results_of(evaluator, dataset_metainfo(cfg.get("val_dataloader")))
    for path, node, kinds in components({p: parts[p] for p in _PLACES if parts.get(p)}):
        for known, _ in map(parameters_of, kinds):
            for name in {"save_best", "monitor"} & set(known) if "rule" in known else ():
                keys = _listed(node.get(name, known[name]) or ())
                if keys == ["auto"] and results.keys and not results.open:
                    keys = [next(iter(results.keys))]
                rules = _listed(node.get("rule"))
                rules *= len(keys) if len(rules) == 1 else 1
                if keys:
                    yield results, path, node, name, keys, rules


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _copied(node: Any) -> Any:
    """Copy nested containers; their other content, such as built hooks, is shared."""
    if isinstance(node, dict):
        return type(node)({key: _copied(value) for key, value in node.items()})
    return [_copied(x) for x in node] if isinstance(node, (list, tuple)) else node
