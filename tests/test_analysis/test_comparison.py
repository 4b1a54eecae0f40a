"""Comparisons: rows, Delta and spread, matching of runs, missing runs, the plot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vmt_mm.analysis import comparison
from vmt_mm.analysis.comparison import (
    LOG,
    RECORD,
    choose_reference,
    compare,
    draw_comparison,
    draw_progress,
    plan_runs,
    to_markdown,
    train_runs,
)
from vmt_mm.checkpoints.files import LAST_VALIDATION
from vmt_mm.errors import InputError
from vmt_mm.utils.files import write_json

BASES = Path(__file__).parents[2] / "configs/_base_"


@pytest.fixture
def configs(tmp_path):
    """Configs of two tasks: `single` trains one at a time, `shared` both."""
    parts = [
        str(BASES / f"{part}.py")
        for part in (
            "models/swin_mlp", "datasets/shapes", "schedules/adam_60e", "default_runtime",
        )
    ]  # fmt: skip
    (tmp_path / "shared.py").write_text(
        f"_base_ = {parts}\n"
        "tasks = dict(_delete_=True, semseg=dict(type='Segmentation', num_classes=8),\n"
        "             normals=dict(type='Normals'))\n"
        "model = dict(backbone=dict(arch='nano', allow_random_backbone=True,\n"
        "                           peft=dict(type='VMTAdapter', ratio=4)))\n"
    )
    (tmp_path / "single.py").write_text(
        "_base_ = './shared.py'\ntask = 'semseg'\n"
        "model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))\n"
    )
    return [str(tmp_path / f"{name}.py") for name in ("single", "shared")]


@pytest.fixture
def runs(configs, tmp_path):
    return plan_runs(configs, {}, [0, 1], tmp_path / "runs")


def finish(run, **scores):
    """Write the results of a finished run: semseg in mIoU, normals in mErr."""
    names = dict(semseg="semseg/mIoU", normals="normals/mErr")
    metrics = {names[task]: value for task, value in scores.items()}
    write_json(run.folder / RECORD, dict(settings=run.settings(), seconds=5.0, metrics=metrics))


def finish_all(runs):
    scores = dict(single=[(40.0, 20.0), (60.0, 30.0)], shared=[(55.0, 24.0), (50.0, 27.5)])
    for run in runs:
        semseg, normals = scores[run.experiment.name][run.seed]
        given = dict(semseg=semseg, normals=normals)
        finish(run, **({run.task: given[run.task]} if run.task else given))


@pytest.fixture(autouse=True)
def quick_counts(request, monkeypatch):
    if "counts_all" not in request.node.name:
        counts = dict(encoder_trainable=1000, total_trainable=3000, passes="shared", tasks=2)
        monkeypatch.setattr(comparison, "summarize_experiment", lambda experiment: counts)


def table(runs, reference=None):
    return compare(runs, choose_reference(runs, reference), {}, "python compare.py")


def test_a_config_of_one_task_is_run_for_each(runs):
    names = [run.name for run in runs]
    assert names == [
        "single-semseg/seed0", "single-normals/seed0", "shared/seed0",
        "single-semseg/seed1", "single-normals/seed1", "shared/seed1",
    ]  # fmt: skip
    command = runs[1].command(Path("train.py"), ["data_root=elsewhere"])
    options = command[command.index("--cfg-options") + 1 : command.index("--work-dir")]
    assert options == ["data_root=elsewhere", "train_cfg.val_interval=60", "task=normals"]
    assert command[-2:] == ["--resume", "auto"]
    assert list(runs[1].cfg.model.tasks) == ["normals"]


def test_scores_spread_and_delta(runs):
    finish_all(runs)
    found = table(runs)
    assert found["reference"]["scores"] == dict(semseg=50.0, normals=25.0)
    single, shared = found["rows"]
    assert shared["scores"]["semseg"]["mean"] == 52.5
    assert shared["scores"]["semseg"]["spread"] == pytest.approx(5 / 2**0.5)
    # seed 0: semseg +10 %, normals 4 % better; seed 1: semseg 0, normals 10 % worse
    assert shared["delta"]["values"] == pytest.approx({"0": 7.0, "1": -5.0})
    assert shared["delta"]["mean"] == pytest.approx(1.0)
    assert shared["delta"]["spread"] == pytest.approx(12 / 2**0.5)
    assert single["delta"]["values"] == pytest.approx({"0": 0.0, "1": 0.0})
    assert not single["missing"] and not shared["missing"]
    assert json.loads(json.dumps(found)) == found


def test_the_table_marks_the_best(runs):
    finish_all(runs)
    lines = to_markdown(table(runs)).splitlines()
    assert lines[0].endswith("| semseg mIoU ↑ | normals mErr ↓ | Δ (%) ↑ |")
    assert "| 50.00 ± 14.14 | **25.00 ± 7.07** | +0.00 ± 0.00 |" in lines[2]
    assert "| shared | 0.001 | 0.003 | 1 | **52.50 ± 3.54** | 25.75 ± 2.47 |" in lines[3]
    assert "**+1.00 ± 8.49**" in lines[3]
    assert "    python compare.py" in lines


def test_missing_runs_are_reported(runs):
    finish_all(runs[:4])
    failed = dict(settings=runs[4].settings(), seconds=2.0, code=1)
    write_json(runs[4].folder / RECORD, failed)
    found = table(runs)
    single, shared = found["rows"]
    assert single["delta"]["values"] == {"0": pytest.approx(single["delta"]["mean"])}
    assert shared["missing"] == ["shared/seed1 has not started"]
    assert shared["scores"]["semseg"]["spread"] is None
    text = to_markdown(found)
    assert "| shared † |" in text
    assert f"single-normals/seed1 failed, see {runs[4].folder / 'output.log'}" in text


def test_without_a_reference_delta_is_omitted_with_a_note(runs, configs):
    finish_all(runs)
    shared = [run for run in runs if run.task is None]
    found = table(shared)
    assert found["rows"][0]["delta"]["mean"] is None
    text = to_markdown(found)
    assert "Δ (%)" not in text and "there is no reference" in text
    own = table(shared, reference=configs[1])
    assert own["reference"]["scores"] == dict(semseg=52.5, normals=25.75)


def test_a_reference_that_lacks_a_task_gives_no_delta(runs):
    finish(runs[0], semseg=40.0)
    found = table(runs)
    assert found["reference"]["scores"]["normals"] is None
    assert not any(row["delta"]["values"] for row in found["rows"])
    assert "single † " in to_markdown(found)


def test_a_folder_of_other_settings_is_refused(configs, runs, tmp_path):
    finish_all(runs)
    options = {"optim_wrapper.optimizer.lr": 0.5}
    [run] = plan_runs(configs[1:], options, [0], tmp_path / "runs")
    with pytest.raises(InputError, match="belongs to a run with different settings: optim_wrapper"):
        run.read()


def test_configs_that_cannot_be_compared(configs, tmp_path):
    (tmp_path / "sub").mkdir()
    for name, message in (
        ("shared", "two configs are named 'shared'"),
        ("fewer", "needs the same"),
    ):
        other = tmp_path / f"sub/{name}.py"
        other.write_text(
            "_base_ = '../shared.py'\ntasks = dict(_delete_=True, normals=dict(type='Normals'))\n"
        )
        with pytest.raises(InputError, match=message):
            plan_runs([*configs, str(other)], {}, [0], tmp_path)
    (tmp_path / "single2.py").write_text("_base_ = './single.py'\n")
    runs = plan_runs([*configs, str(tmp_path / "single2.py")], {}, [0], tmp_path)
    with pytest.raises(InputError, match="set --reference to one"):
        choose_reference(runs, None)


def test_a_model_for_each_task_counts_all_of_them(runs):
    found = compare(runs, None, {}, "")
    single, shared = found["rows"]
    assert (single["passes"], shared["passes"]) == (2, 1)
    assert 2 * 890_000 < single["encoder"] < 2 * 910_000
    assert 0 < shared["encoder"] < 200_000
    assert shared["all"] > shared["encoder"]


def test_runs_are_side_by_side_and_failures_do_not_stop_others(runs):
    script = "import os, sys; print('threads', os.environ['OMP_NUM_THREADS']); sys.exit({})"
    commands = [[sys.executable, "-c", script.format(code)] for code in (3, 0)]
    (runs[1].folder / LAST_VALIDATION).parent.mkdir(parents=True)
    write_json(runs[1].folder / RECORD, dict(settings=runs[1].settings(), seconds=1.0))
    write_json(runs[1].folder / LAST_VALIDATION, dict(iter=1, metrics={"normals/mErr": 1.0}))
    ended = []
    train_runs(runs[:2], commands, 2, ended.append)
    assert len(ended) == 2
    assert runs[0].read()["code"] == 3 and "metrics" not in runs[0].read()
    assert runs[1].read()["metrics"] == {"normals/mErr": 1.0}
    assert runs[1].read()["seconds"] > 1
    assert (runs[0].folder / LOG).read_text().startswith("threads ")


@pytest.mark.processes
def test_an_interruption_stops_running_trainings(runs):
    commands = [[sys.executable, "-c", "import time; time.sleep(1200)"], [sys.executable, "-c", ""]]

    def interrupt(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_runs(runs[:2], commands, 2, interrupt)
    assert runs[0].read()["code"] != 0


def test_the_plot_shows_every_row(runs):
    finish_all(runs)
    found = table(runs)
    image = draw_comparison(found)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    found["rows"][1]["encoder"] = 0  # has a place on the logarithmic axis
    assert not np.array_equal(draw_comparison(found), image)


def log(run, records):
    path = run.folder / "20260101_000000/vis_data/scalars.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def validation(epoch, seconds, **scores):
    names = dict(semseg="semseg/mIoU", normals="normals/mErr")
    metrics = {names[task]: value for task, value in scores.items()}
    return dict(step=epoch, train_seconds=seconds, time=0.2, **metrics)


def test_cost_and_progress_come_from_the_logs(runs):
    finish_all(runs)
    steps = [dict(step=n, epoch=1, iter=n, time=2.0 + n, memory=512 * n) for n in (1, 2, 3)]
    log(runs[0], [*steps, validation(1, 60, semseg=30.0), validation(2, 120, semseg=40.0)])
    log(runs[1], [*steps, validation(1, 90, normals=30.0), validation(2, 180, normals=25.0)])
    log(runs[2], [*steps, validation(1, 50, semseg=50.0, normals=25.0)])
    found = table(runs)
    single, shared = found["rows"]
    assert (single["step"], single["memory"]) == (8.0, 1.5)  # one step of each model
    assert (shared["step"], shared["memory"]) == (4.0, 1.5)
    assert [point["minutes"] for point in single["progress"]["0"]] == [2.5, 5.0]
    (point,) = shared["progress"]["0"]
    assert point["delta"] == pytest.approx(0)
    assert single["progress"]["0"][0]["delta"] == pytest.approx((-40 - 20) / 2)
    assert "| step (s) | memory (GB) |" in to_markdown(found)
    assert draw_progress(found) is not None
    single["progress"]["0"].pop()
    assert draw_progress(found) is None  # one validation is no curve
    assert "step (s)" not in to_markdown(table(runs[3:]))


def test_further_metrics_are_columns(runs):
    finish_all(runs)
    path = runs[2].folder / RECORD
    record = json.loads(path.read_text())
    record["metrics"]["normals/within_30"] = 1.25
    write_json(path, record)
    found = compare(runs, None, {}, "", ["normals/within_30"])
    single, shared = found["rows"]
    assert shared["scores"]["normals/within_30"]["values"] == {"0": 1.25}
    assert "single-normals/seed0 has no normals/within_30" in single["missing"]
    assert not any("semseg" in text for text in single["missing"])
    text = to_markdown(found)
    assert "normals within_30 ↑" in text and "**1.250**" in text and "52.50 ± 3.54" in text
    with pytest.raises(InputError, match="expected some of semseg/mIoU, .* got 'normals/images'"):
        compare(runs, None, {}, "", ["normals/images"])


def test_validations_do_not_change_a_run(runs, configs, tmp_path):
    finish_all(runs)
    often = plan_runs(configs, {"train_cfg.val_interval": 1}, [0, 1], tmp_path / "runs")
    assert "train_cfg.val_interval=1" in often[0].command(Path("train.py"), [])
    assert all(run.read()["metrics"] for run in often)
