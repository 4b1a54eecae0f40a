"""Rows, Delta and spread of a comparison, whose run is whose, what is missing, the picture."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vmt_mm.analysis.comparison import choose_reference, compare, cost_of, to_markdown
from vmt_mm.analysis.comparison_plot import draw_comparison
from vmt_mm.analysis.jobs import Job, run_jobs
from vmt_mm.analysis.runs import plan_runs, read_entry
from vmt_mm.analysis.trial import Trial, check_budget, project
from vmt_mm.errors import InputError

BASES = Path(__file__).parents[2] / "configs/_base_"
COST = dict(encoder=1000, all=3000, passes=1)
CONSOLE = Console(quiet=True)


@pytest.fixture
def entries(tmp_path):
    """Two tasks; `single` trains one at a time, `shared` both."""
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
        "model = dict(tasks=_base_.tasks, backbone=dict(arch='nano', tasks=list(_base_.tasks),\n"
        "             allow_random_backbone=True, peft=dict(type='VMTAdapter', ratio=4)))\n"
    )
    (tmp_path / "single.py").write_text(
        "_base_ = './shared.py'\ntask = 'semseg'\n"
        "model = dict(backbone=dict(peft=dict(_delete_=True, type='FullFineTuning')))\n"
    )
    return [read_entry(str(tmp_path / f"{name}.py"), {}) for name in ("single", "shared")]


@pytest.fixture
def runs(entries, tmp_path):
    return plan_runs(entries, [0, 1], tmp_path / "runs")


def finish(run, **scores):
    """What a finished run leaves: semseg in mIoU, normals in mErr."""
    run.note_start()
    names = dict(semseg="semseg/mIoU", normals="normals/mErr")
    metrics = {names[task]: value for task, value in scores.items()}
    note = json.dumps(dict(iter=10, metrics=metrics))
    (run.folder / "last_validation.json").write_text(note)
    assert run.note_end(0, 5.0)


def finish_all(runs):
    scores = dict(single=[(40.0, 20.0), (60.0, 30.0)], shared=[(55.0, 24.0), (50.0, 27.5)])
    for run in runs:
        semseg, normals = scores[run.entry.name][run.seed]
        given = dict(semseg=semseg, normals=normals)
        finish(run, **({run.task: given[run.task]} if run.task else given))


def table(entries, runs, reference=None):
    costs = dict.fromkeys([entry.name for entry in entries], COST)
    reference = choose_reference(entries, reference)
    return compare(entries, runs, reference, costs, "python compare.py")


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
    assert list(runs[1].entry.configs["normals"].model.tasks) == ["normals"]


def test_scores_spread_and_delta(entries, runs):
    finish_all(runs)
    comparison = table(entries, runs)
    assert comparison["reference"]["scores"] == dict(semseg=50.0, normals=25.0)
    single, shared = comparison["rows"]
    assert shared["scores"]["semseg"]["mean"] == 52.5
    assert shared["scores"]["semseg"]["spread"] == pytest.approx(5 / 2**0.5)
    # seed 0: semseg +10 %, normals 4 % better; seed 1: semseg 0, normals 10 % worse
    assert shared["delta"]["values"] == pytest.approx({"0": 7.0, "1": -5.0})
    assert shared["delta"]["mean"] == pytest.approx(1.0)
    assert shared["delta"]["spread"] == pytest.approx(12 / 2**0.5)
    assert single["delta"]["values"] == pytest.approx({"0": 0.0, "1": 0.0})
    assert not single["missing"] and not shared["missing"]
    assert len(single["runs"]) == 4
    assert json.loads(json.dumps(comparison)) == comparison


def test_the_table_marks_the_best(entries, runs):
    finish_all(runs)
    lines = to_markdown(table(entries, runs)).splitlines()
    assert lines[0].endswith("| semseg mIoU ↑ | normals mErr ↓ | Δ (%) ↑ |")
    assert "| 50.00 ± 14.14 | **25.00 ± 7.07** | +0.00 ± 0.00 |" in lines[2]
    assert "| shared | 0.001 | 0.003 | 1 | **52.50 ± 3.54** | 25.75 ± 2.47 |" in lines[3]
    assert "**+1.00 ± 8.49**" in lines[3]
    assert "    python compare.py" in lines


def test_what_is_missing_is_said(entries, runs):
    finish_all(runs[:4])
    runs[4].note_start()
    assert not runs[4].note_end(1, 2.0)
    comparison = table(entries, runs)
    single, shared = comparison["rows"]
    assert single["delta"]["values"] == {"0": pytest.approx(single["delta"]["mean"])}
    assert shared["missing"] == ["shared/seed1 has not been started"]
    assert shared["scores"]["semseg"]["spread"] is None
    text = to_markdown(comparison)
    assert "| shared † |" in text
    assert f"single-normals/seed1 failed, see {runs[4].folder / 'output.log'}" in text


def test_without_a_reference_delta_is_left_out_and_said(entries, runs):
    finish_all(runs)
    shared = entries[1:]
    comparison = table(shared, runs)
    assert comparison["rows"][0]["delta"]["mean"] is None
    text = to_markdown(comparison)
    assert "Δ (%)" not in text and "Δ is left out: no config trains one task alone" in text
    assert draw_comparison(comparison) is None
    own = table(shared, runs, reference=shared[0].experiment.path)
    assert own["reference"]["scores"] == dict(semseg=52.5, normals=25.75)


def test_a_reference_that_lacks_a_task_gives_no_delta(entries, runs):
    finish(runs[0], semseg=40.0)
    comparison = table(entries, runs)
    assert comparison["reference"]["scores"] is None
    assert "has no normals yet" in to_markdown(comparison)


def test_a_run_counts_once_its_end_is_noted_and_validated(runs):
    run = runs[2]
    assert run.metrics() is None
    run.note_start()
    assert run.metrics() is None
    assert not run.note_end(0, 1.0)  # no validation
    finish(run, semseg=1.0, normals=2.0)
    assert run.metrics() == {"semseg/mIoU": 1.0, "normals/mErr": 2.0}
    assert run.read()["seconds"] == 6.0
    (run.folder / "last_validation.json").write_text('{"iter": 11, "metrics": {}}')
    assert run.metrics() is None  # of another training in this folder


def test_a_folder_of_other_settings_is_refused(entries, runs, tmp_path):
    finish_all(runs)
    path = entries[1].experiment.path
    other = [read_entry(path, {"optim_wrapper.optimizer.lr": 0.5})]
    run = plan_runs(other, [0], tmp_path / "runs")[0]
    with pytest.raises(InputError, match=r"config\.optim_wrapper\.optimizer\.lr: 0\.0001 there, 0"):
        run.metrics()
    (tmp_path / "else/shared/seed0").mkdir(parents=True)
    (tmp_path / "else/shared/seed0/epoch_1.pth").touch()
    with pytest.raises(InputError, match="holds something that is no run of a comparison"):
        plan_runs(entries, [0], tmp_path / "else")[2].metrics()


def test_configs_that_cannot_be_compared(entries, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("shared", "fewer"):
        (tmp_path / f"sub/{name}.py").write_text(
            "_base_ = '../shared.py'\ntasks = dict(_delete_=True, normals=dict(type='Normals'))\n"
        )
    for name, message in (
        ("shared", "two configs are named 'shared'"),
        ("fewer", "needs the same"),
    ):
        other = read_entry(str(tmp_path / f"sub/{name}.py"), {})
        with pytest.raises(InputError, match=message):
            plan_runs([*entries, other], [0], tmp_path)
    (tmp_path / "single2.py").write_text("_base_ = './single.py'\n")
    second = read_entry(str(tmp_path / "single2.py"), {})
    with pytest.raises(InputError, match="say by --reference"):
        choose_reference([*entries, second], None)


def test_a_config_that_changed_meanwhile_is_noticed(entries, runs):
    single, shared = runs[0], runs[2]
    assert single.is_still({}) and shared.is_still({})
    path = Path(shared.entry.experiment.path)
    path.write_text(path.read_text() + "# a comment\n")
    assert shared.is_still({})
    path.write_text(path.read_text() + "optim_wrapper = dict(optimizer=dict(lr=0.5))\n")
    assert not single.is_still({})  # it builds on that file
    path.write_text("broken =")
    assert not shared.is_still({})


def test_a_model_a_task_counts_all_of_them(entries):
    single, shared = map(cost_of, entries)
    assert (single["passes"], shared["passes"]) == (2, 1)
    assert 2 * 890_000 < single["encoder"] < 2 * 910_000
    assert 0 < shared["encoder"] < 200_000
    assert shared["all"] > shared["encoder"]


def test_a_plan_that_takes_too_long_is_refused(runs):
    quick = Trial(1.0, 60, 0.0, 0, 0.0, 0, start=20.0)  # 80 s
    slow = Trial(1.0, 60, 2.0, 20, 1.0, 10, start=10.0)  # 120 s
    trials = {"single-semseg": quick, "single-normals": quick, "shared": slow}
    assert project(runs, trials, slots=1) == 560
    assert project(runs, trials, slots=2) == 320  # 80 + 120 + 80 | 80 + 80 + 120, then the last
    check_budget(runs, trials, 2, 6, CONSOLE)
    with pytest.raises(InputError, match="takes about 5 min, the budget is 4 min"):
        check_budget(runs, trials, 2, 4, CONSOLE)


def test_jobs_run_side_by_side_and_failures_do_not_stop_others(tmp_path):
    script = "import os, sys; print('threads', os.environ['OMP_NUM_THREADS']); sys.exit({})"
    jobs = [
        Job(str(code), [sys.executable, "-c", script.format(code)], tmp_path / f"{code}/log")
        for code in (3, 0)
    ]
    ended = []
    assert run_jobs(jobs, 2, CONSOLE, on_end=lambda job: ended.append(job.code))
    assert sorted(ended) == [0, 3]
    assert jobs[0].tail().startswith("threads ")


def test_a_folder_in_use_is_refused(tmp_path):
    log = tmp_path / "log"
    inner = Job("inner", [sys.executable, "-c", ""], log)

    def start_the_same_again(job):
        if job.name == "second":
            run_jobs([inner], 1, CONSOLE)

    jobs = [
        Job("first", [sys.executable, "-c", "import time; time.sleep(1200)"], log),
        Job("second", [sys.executable, "-c", ""], tmp_path / "other"),
    ]
    with pytest.raises(InputError, match="another process runs here"):
        run_jobs(jobs, 2, CONSOLE, on_start=start_the_same_again)
    assert jobs[0].stopped  # no child is left behind


def has_colour(image, colour):
    distance = np.abs(image.astype(int) - colour).max(axis=2)
    return bool((distance < 30).any())


def test_the_picture_shows_every_row(entries, runs):
    finish_all(runs)
    comparison = table(entries, runs)
    one_pass, several = (0, 114, 178), (213, 94, 0)
    image = draw_comparison(comparison)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert has_colour(image, one_pass) and not has_colour(image, several)
    comparison["rows"][0]["passes"] = 2
    comparison["rows"][1]["encoder"] = 0
    assert has_colour(draw_comparison(comparison), several)
