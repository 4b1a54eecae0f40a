"""The command that counts parameters."""

import json
from functools import partial

import pytest
from commands import ROOT

PASCAL = str(ROOT / "configs/vmt/vmt_swin-t_pascal.py")
FULL = str(ROOT / "configs/baselines/multi_task_full_swin-nano_shapes.py")


@pytest.fixture
def count(run_tool):
    return partial(run_tool, "tools/analysis_tools/count_params.py")


def test_json_holds_whole_numbers(count):
    records = json.loads(count(PASCAL, FULL, "--json").out)
    assert [record["config"] for record in records] == [PASCAL, FULL]
    expected = dict(
        encoder_trainable=1_126_848,
        output_norms=0,
        decoder_trainable=2_537_504,
        total_trainable=3_664_352,
        frozen=27_520_698,
    )
    for record in records:
        assert all(type(record[key]) is int for key in expected)
    assert expected.items() <= records[0].items()
    assert records[0]["paper_millions"] == dict(encoder=1.13, all=3.68)
    assert (records[1]["encoder_trainable"], records[1]["output_norms"]) == (898_210, 600)
    assert "paper_millions" not in records[1]


def test_the_papers_numbers_are_listed(count):
    rows = [[c.strip() for c in line.split("│")] for line in count(PASCAL, FULL).out.splitlines()]
    row = next(row for row in rows if "vmt_swin-t_pascal" in row)
    assert {"1,126,848", "2,537,504", "4.09", "1.02", "1.13 / 3.66", "1.13 / 3.68"} <= set(row)
    assert next(row for row in rows if "multi_task_full_swin-nano_shapes" in row)[-3:-1] == ["", ""]


def test_options_reach_every_config(count):
    records = json.loads(count(PASCAL, FULL, "--json", "--cfg-options", "task=semseg").out)
    assert [record["tasks"] for record in records] == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "own.py: no such config file"),
        ("data_root = 'data'", "own.py: `model` must be of type MultiTaskSegmentor"),
        ("model = dict(type='EncoderDecoder')", "`model` must be of type MultiTaskSegmentor"),
        ("model = dict(type='MultiTaskSegmentor')", "own.py: `model` has no `tasks`"),
    ],
)
def test_a_wrong_config_is_one_line(count, tmp_path, content, message):
    own = tmp_path / "own.py"
    if content is not None:
        own.write_text(content)
    printed = count(PASCAL, own, "--json", code=1)
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert printed.out == ""
