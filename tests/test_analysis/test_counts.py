"""Exact trainable-parameter counts of every config of the paper's Tables 2 and 3."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vmt_mm.analysis.counts import PAPER_SETTING, PAPER_TABLE, summarize_experiment
from vmt_mm.analysis.experiment import Experiment, load_experiments, repeat_tasks

CONFIGS = Path(__file__).parents[2] / "configs"
SWIN_T = 27_517_818
#: Config -> trainable backbone parameters; (count, tolerance) where the paper omits the sizes.
TABLE = {
    "baselines/single_task_full_swin-t_pascal": 4 * SWIN_T,
    "baselines/decoders_swin-t_pascal": 0,
    "baselines/multi_task_full_swin-t_pascal": SWIN_T,
    "baselines/shared_bitfit_swin-t_pascal": 76_218,
    "baselines/multiple_bitfit_swin-t_pascal": 4 * 76_218,
    "baselines/shared_relative_bias_swin-t_pascal": 23_322,
    "baselines/multiple_relative_bias_swin-t_pascal": 4 * 23_322,
    "baselines/shared_lora_swin-t_pascal": 132_480,
    "baselines/multiple_lora_swin-t_pascal": 317_952,
    "baselines/shared_adapter_swin-t_pascal": 2_172_000,
    "baselines/multiple_adapter_swin-t_pascal": 4 * 2_172_000,
    "baselines/shared_low_rank_adapter_swin-t_pascal": 84_456,
    "baselines/multiple_low_rank_adapter_swin-t_pascal": 4 * 84_456,
    "baselines/hyperformer_swin-t_pascal": (72_770_000, 1_000_000),
    "baselines/polyhistor_swin-t_pascal": (6_410_000, 50_000),
    "baselines/polyhistor-lite_swin-t_pascal": (410_000, 50_000),
    "vmt/vmt_swin-t_pascal_rho1": 4_361_664,
    "vmt/vmt_swin-t_pascal_rho2": 2_205_120,
    "vmt/vmt_swin-t_pascal": 1_126_848,
    "vmt/vmt_swin-t_pascal_rho8": 587_712,
    "vmt/vmt-lite_swin-t_pascal": 395_076,
    "vmt/vmt-lite_swin-t_pascal_m6": 217_632,
    "vmt/vmt-lite_swin-t_pascal_m12": 145_920,
}
#: Output norms are trainable in full fine-tuning; BitFit's are counted with the backbone.
OUTPUT_NORMS = {
    "baselines/single_task_full_swin-t_pascal": 4 * 2_880,
    "baselines/multi_task_full_swin-t_pascal": 2_880,
}
NANO = CONFIGS / "vmt/vmt_swin-nano_shapes.py"


def summarize(path, options=None):
    (experiment,) = load_experiments([str(path)], options)
    return SimpleNamespace(**summarize_experiment(experiment))


def test_every_row_of_the_paper_is_counted():
    rows = {Path(config).name.replace(PAPER_SETTING, "") for config in TABLE}
    assert rows == set(PAPER_TABLE)


@pytest.mark.parametrize("config", TABLE)
def test_trainable_parameters_of_the_papers_tables(config):
    summary = summarize(CONFIGS / f"{config}.py")
    expected, tolerance = TABLE[config] if isinstance(TABLE[config], tuple) else (TABLE[config], 0)
    assert abs(summary.encoder_trainable - expected) <= tolerance
    assert summary.output_norms == OUTPUT_NORMS.get(config, 0)
    assert summary.decoder_trainable == 2_537_504
    assert summary.encoder == SWIN_T
    parts = summary.encoder_trainable + summary.output_norms + summary.decoder_trainable
    assert summary.total_trainable == parts


def test_counting_allocates_no_weights(monkeypatch):
    # a table of many configs would otherwise need gigabytes
    built = []
    build = Experiment.build_models

    def remember(experiment):
        built.extend(build(experiment))
        return built

    monkeypatch.setattr(Experiment, "build_models", remember)
    summary = summarize(CONFIGS / "baselines/single_task_full_swin-t_pascal.py")
    tensors = [t for model in built for t in (*model.parameters(), *model.buffers())]
    assert sum(t.numel() for t in tensors) > summary.total_trainable > 4 * SWIN_T
    assert sum(t.numel() for t in tensors if not t.is_meta) < 1e6  # mostly tables of integers


def test_shares_and_frozen_counts():
    summary = summarize(CONFIGS / "vmt/vmt_swin-t_pascal.py")
    assert summary.frozen == SWIN_T + 2_880
    assert summary.share_of_one_encoder == pytest.approx(0.04095, abs=1e-5)
    assert summary.share_of_an_encoder_per_task == pytest.approx(0.01024, abs=1e-5)
    assert (summary.tasks, summary.models, summary.passes) == (4, 1, "shared")


@pytest.fixture
def single(tmp_path):
    """Full fine-tuning of one task alone."""
    path = tmp_path / "single.py"
    base = CONFIGS / "baselines/multi_task_full_swin-nano_shapes.py"
    path.write_text(f"_base_ = {str(base)!r}\ntask = 'semseg'\n")
    return path


def test_a_single_task_config_counts_one_model_per_task(single):
    summary = summarize(single)
    assert (summary.encoder_trainable, summary.output_norms) == (4 * 898_210, 4 * 600)
    assert summary.decoder_trainable == summarize(NANO).decoder_trainable
    assert (summary.tasks, summary.models, summary.passes) == (4, 4, "per_task")
    assert summary.share_of_an_encoder_per_task == 1


def test_a_selected_task_counts_one_model(single):
    summary = summarize(single, {"task": "normals"})
    assert summary.encoder_trainable == 898_210
    assert (summary.tasks, summary.models, summary.passes) == (1, 1, "shared")


@pytest.mark.parametrize("count", [1, 3, 7])
def test_models_with_another_number_of_tasks(count):
    (experiment,) = load_experiments(
        [str(CONFIGS / "vmt/vmt_swin-nano_shapes_mixed-heads.py")],
        {"model.test_cfg": dict(tasks=["normals"])},
    )
    (model,) = experiment.build_models(count)
    names = ["semseg", "human_parts", "saliency", "normals"]
    names = [*names, *(f"{name}_{i}" for i, name in enumerate(names, start=4))][:count]
    assert list(model.heads) == list(model.backbone.task_names) == names
    heads = {name: type(head).__name__ for name, head in model.heads.items()}
    kinds = dict(human_parts="SegformerHead", saliency="HRNetHead")
    assert heads == {n: kinds.get(n.rstrip("_0123456789"), "MLPHead") for n in names}


def test_names_of_repeated_tasks_differ():
    assert repeat_tasks(["a", "b"], 5) == dict(a="a", b="b", a_2="a", b_3="b", a_4="a")
