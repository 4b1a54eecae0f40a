"""Logs, operation counts and confusion matrices, against naive counts."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vmt_mm.analysis.confusion import count_confusion, draw_confusion
from vmt_mm.analysis.counts import count_flops, count_operations
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.analysis.logs import curve, draw_curves, keys_of, read_log, train_times
from vmt_mm.errors import InputError
from vmt_mm.evaluation import SegmentationMetric

CONFIG = "configs/vmt/vmt_swin-nano_shapes.py"


def write(folder, run, records):
    path = folder / run / "vis_data/scalars.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def step(number, epoch, seconds, loss):
    return dict(step=number, epoch=epoch, iter=number, time=seconds, loss=loss, loss_a=loss / 2)


@pytest.fixture
def work_dir(tmp_path):
    first = [step(1, 1, 1.0, 8.0), step(2, 1, 3.0, 7.0), {"step": 1, "a/mIoU": 10.0, "time": 9.0}]
    write(tmp_path, "20260101_000000", [*first, step(3, 2, 1.0, 99.0)])
    second = [step(3, 2, 5.0, 6.0), step(4, 2, 5.0, 5.0), {"step": 2, "a/mIoU": 20.0, "time": 9.0}]
    write(tmp_path, "20260102_000000", second)
    return tmp_path


def test_a_resumed_training_is_one_curve(work_dir):
    records = read_log(work_dir)
    assert curve(records, "loss") == ([1, 2, 3, 4], [8.0, 7.0, 6.0, 5.0])
    assert curve(records, "a/mIoU") == ([1, 2], [10.0, 20.0])
    assert keys_of(records) == ["a/mIoU", "loss", "loss_a", "time"]
    with pytest.raises(InputError, match="no 'los' in the log; it has a/mIoU, loss"):
        curve(records, "los")
    one, two = (draw_curves([("x", k, *curve(records, k))]) for k in ("loss", "a/mIoU"))
    assert one.shape == two.shape
    assert not np.array_equal(one, two)


def test_times_are_of_training_only(work_dir):
    times = train_times(read_log(work_dir))
    assert (times["slowest"], times["slowest_s"]) == (2, 5.0)
    assert (times["fastest"], times["fastest_s"]) == (1, 2.0)
    assert times["mean_s"] == pytest.approx(14 / 4)
    assert times["std_s"] == pytest.approx(1.5)
    late = [step(n, 1, 1.0, 1.0) for n in range(9)] + [step(9, 1, 50.0, 1.0)]
    assert train_times(late)["mean_s"] == 1.0
    assert train_times(late, include_outliers=True)["mean_s"] == pytest.approx(5.9)


def test_a_log_without_times_is_named():
    with pytest.raises(InputError, match="run.json: no record has `epoch` and `time`"):
        train_times([dict(step=1, loss=0.5)], source="run.json")


def test_a_file_that_is_not_a_log_is_named(tmp_path):
    with pytest.raises(InputError, match="no log"):
        read_log(tmp_path)
    (tmp_path / "a.json").write_text('{"loss": 1}\n')
    with pytest.raises(InputError, match=r"a\.json, line 1"):
        read_log(tmp_path / "a.json")


def test_products_within_attention_count():
    (model,) = load_experiments([CONFIG])[0].build_models()
    parts = {part["name"]: part for part in count_flops(model, (56, 56))}
    assert list(parts)[0] == "encoder"
    assert len(parts) == 1 + len(model.tasks)
    # by hand: one block of stage 0 on 14 x 14 tokens, 4 windows of 49 tokens, d = 20
    d, tokens, window = 20, 14 * 14, 49
    linear = tokens * (3 * d * d + d * d + 2 * 4 * d * d)
    attention = 2 * tokens * window * d
    block = model.backbone.stages[0].blocks[0]
    x = torch.randn(1, tokens, d)
    counted = count_operations(lambda: block.ffn(block.attn(x, (14, 14))))
    assert counted == 2 * (linear + attention)
    # one pass for all tasks against one per task
    (several,) = load_experiments(
        ["configs/baselines/multiple_adapter_swin-nano_shapes.py"]
    )[0].build_models()  # fmt: skip
    assert count_flops(several, (56, 56))[0]["flops"] > 2.5 * parts["encoder"]["flops"]


@pytest.mark.parametrize("how", ["grad", "no_grad", "inference_mode"])
def test_fused_attention_counts(how):
    query = torch.randn(2, 3, 49, 32, requires_grad=how == "grad")
    product = 2 * (2 * 3) * 49 * 49 * 32
    context = torch.enable_grad if how == "grad" else getattr(torch, how)
    out = []

    def attend():
        with context():
            out.append(F.scaled_dot_product_attention(query, query, query))

    assert count_operations(attend) == 2 * product
    if how == "grad":  # recomputed scores, and four gradients
        assert count_operations(out[0].sum().backward) == 5 * product


def test_convolutions_and_gradients_count():
    a, kernel = torch.randn(3, 4, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True)

    def work():
        (a @ torch.randn(4, 5)).sum().backward()
        F.conv2d(torch.randn(1, 3, 5, 5), kernel).sum().backward()

    assert count_operations(work) == 2 * 2 * 3 * 4 * 5 + 2 * 2 * 9 * 2 * 27


def test_confusion_counts_every_labelled_pixel():
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (9, 11)).astype(np.uint8)
    prediction = generator.integers(0, 3, (9, 11)).astype(np.uint8)
    label[0] = 255
    matrix = count_confusion(label, prediction, 4, 255, "x")
    pairs = Counter(zip(label[1:].ravel().tolist(), prediction[1:].ravel().tolist(), strict=True))
    assert all(matrix[a, b] == pairs[a, b] for a in range(4) for b in range(4))
    assert matrix.sum() == 88
    metric = SegmentationMetric("t", 4)
    counts = metric.measure(torch.from_numpy(prediction), torch.from_numpy(label))
    reduced = metric.reduce({k: v[None] for k, v in counts.items()})
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    assert reduced["mIoU"] == pytest.approx(100 * (matrix.diagonal() / union).mean())


def test_confusion_is_drawn_or_refused():
    matrix = np.array([[5, 0], [2, 3]])
    picture = draw_confusion(matrix, ["a", "b"], "title", "viridis")
    other = draw_confusion(matrix.T, ["a", "b"], "title", "viridis")
    assert not np.array_equal(picture, other)
    with pytest.raises(InputError, match="must be a Matplotlib colormap, got 'nocolor'"):
        draw_confusion(matrix, ["a", "b"], "title", "nocolor")
    with pytest.raises(InputError, match="protocol A"):
        count_confusion(np.zeros((2, 2)), np.zeros((2, 3)), 2, 255, "x")
    with pytest.raises(InputError, match="predicted class 7"):
        count_confusion(np.zeros((2, 2), int), np.full((2, 2), 7), 2, 255, "x")
