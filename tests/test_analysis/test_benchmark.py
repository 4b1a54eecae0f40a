"""Benchmarks: cases are timed in turn, and their records."""

from pathlib import Path

import pytest
import torch

from vmt_mm.analysis import timing
from vmt_mm.analysis.benchmark import (
    SETTING,
    UNTIMED,
    Case,
    build_case,
    draw,
    make_run,
    measure,
)
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.analysis.mmseg_baseline import StockSwin, logits_difference
from vmt_mm.errors import InputError

ROOT = Path(__file__).parents[2]
NANO = ROOT / "configs/vmt/vmt_swin-nano_shapes.py"


def experiment(path=NANO, options=None):
    return load_experiments([str(path)], options)[0]


def scripted(config, tasks, seconds, calls):
    """A case whose successive calls take these numbers of seconds."""
    left = iter(seconds)

    def run():
        calls.append((config, tasks))
        return next(left)

    about = dict(SETTING, config=config, tasks=tasks, size=(8, 8), passes="shared")
    return Case(about, run)


@pytest.fixture
def scripted_clock(monkeypatch):
    monkeypatch.setattr(timing, "seconds_of", lambda run: run())


@pytest.mark.usefixtures("scripted_clock")
def test_cases_run_in_turn_and_the_first_rounds_do_not_count():
    calls, ticks = [], []
    cases = [
        scripted("a", 1, [99, 99, 3, 1, 2], calls),
        scripted("a", 2, [99, 99, 5, 7, 6], calls),
        scripted("b", 2, [0, 0, 4, 4, 4], calls),
    ]
    records = measure(cases, 3, advance=lambda: ticks.append(1))
    assert calls == [("a", 1), ("a", 2), ("b", 2)] * 5
    assert len(ticks) == len(calls) == len(cases) * (UNTIMED + 3)
    found = [(r["median_s"], r["min_s"], r["ratio"]) for r in records]
    assert found == [(2, 1, 1), (6, 5, 3), (4, 4, None)]
    expected = {"config": "a", "tasks": 2, "mode": "encoder", "median_s": 6}
    assert expected.items() <= records[1].items()
    assert records[1]["ratio_to_first"] == (1, 1, 1)
    assert records[2]["ratio_to_first"] == (4 / 6, 4 / 7, 4 / 5)  # paired with a's 5, 7, 6
    assert timing.paired_ratio(range(1, 21), [1] * 20) == (10.5, 6, 15)  # ranks of 95 %


@pytest.mark.usefixtures("scripted_clock")
def test_the_plot_takes_any_number_of_configs():
    records = measure([scripted("a", 4, [1] * 3, [])], 1)  # ratios need a measurement for one task
    small = draw(records)
    many = [scripted(f"{n}", t, [t] * 3, []) for n in range(23) for t in (1, 2)]
    assert draw(measure(many, 1)).shape[0] > small.shape[0] > 300


def test_the_encoder_gives_all_maps_of_every_task():
    setting = dict(tasks=6, mode="encoder", batch=2, size=(48, 40))
    case = build_case(experiment(), setting)
    assert {**setting, "passes": "shared"}.items() <= case.record.items()
    (features,) = case.run()
    assert len(features) == 6
    for maps in features.values():
        assert [tuple(m.shape[2:]) for m in maps] == [(12, 10), (6, 5), (3, 3), (2, 2)]
        assert not any(m.requires_grad for m in maps)


def test_the_configs_size_is_width_and_height():
    case = build_case(experiment(options={"image_size": (64, 32)}), {})
    assert case.record["size"] == (32, 64)


def test_a_config_of_one_task_is_a_model_for_each(tmp_path):
    single = tmp_path / "single.py"
    single.write_text(f"_base_ = {str(NANO)!r}\ntask = 'semseg'\n")
    assert build_case(experiment(single), dict(size=(32, 32))).record["passes"] == "per_task"
    case = build_case(experiment(single), dict(tasks=3, size=(32, 32)))
    assert case.record["passes"] == "per_task"
    assert [len(features) for features in case.run()] == [1, 1, 1]


def test_a_training_step_moves_every_trainable_parameter():
    nano = experiment()
    (model,) = nano.build_models(5)
    model.backbone.init_weights()
    before = {name: p.clone() for name, p in model.named_parameters()}
    run = make_run(model, torch.randn(2, 3, 32, 32), "train", nano.cfg.optim_wrapper)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.training
    for _ in range(2):  # in the first step W_up is zero, so W_down has no gradient
        run()
    for name, parameter in model.named_parameters():
        dead = name.startswith("heads") and "linears" in name and name.endswith("bias")
        if not dead:  # a bias before batch normalisation
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_inference_predicts_every_task():
    nano = experiment()
    (model,) = nano.build_models(5)
    samples = make_run(model, torch.randn(2, 3, 32, 32), "infer", {})()
    assert len(samples) == 2
    assert all(samples[1].prediction(t).shape[1:] == (32, 32) for t in model.tasks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "encoder", 1, (32, 32)), "positive integers, got tasks=0,"),
        ((1, "encoder", 0, (32, 32)), "batch=0"),
        ((1, "encoder", 1, (32, -1)), r"size=\(32, -1\)"),
    ],
)
def test_wrong_numbers_are_one_message(arguments, message):
    with pytest.raises(InputError, match=message):
        build_case(
            experiment(), dict(zip(("tasks", "mode", "batch", "size"), arguments, strict=True))
        )


def test_no_repeats_are_refused():
    with pytest.raises(InputError, match="`repeats` must be 1 or more, got 0"):
        measure([], 0)


@pytest.mark.parametrize("size", [(64, 96), (50, 39)])
def test_the_stock_composition_is_the_same_function(size):
    models = []
    for variant in ("ours", "stock"):
        case = build_case(experiment(), dict(tasks=5, mode="train", size=size, variant=variant))
        for _ in range(2):  # so that the adapters are not zero
            case.run()
        models.append(case.models[0])
    ours, stock = models
    assert type(stock.backbone) is StockSwin
    images = torch.randn(2, 3, *size)
    assert logits_difference(ours, stock, images) < 1e-5
    with torch.no_grad():
        next(iter(ours.heads.values())).fuse.weight.mul_(1.01)
    stock.load_state_dict = lambda _: None
    assert logits_difference(ours, stock, images) > 1e-4
    assert ours.training
