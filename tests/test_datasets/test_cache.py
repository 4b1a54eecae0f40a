"""The cache gives the same samples as the files, and writes each once, atomically."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from vmt_mm.datasets import MultiTaskDataset, SeededIndex, cache
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.registry import TASKS as REGISTRY
from vmt_mm.tasks import Task
from vmt_mm.tasks.foreground import ForegroundMask

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    depth=dict(type="Depth"),
)
IDS = ("a", "b", "c", "d", "e")
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadLabels")]
PACK = [dict(type="PackMultiTaskInputs")]
PIPELINES = dict(
    plain=[*LOAD, *PACK],
    warp=[*LOAD, dict(type="RandomWarp", size=(20, 24)), *PACK],
    crop=[
        *LOAD,
        dict(type="RandomFlip", prob=0.5),
        dict(type="RandomCrop", size=(8, 8)),
        dict(type="PhotoMetricDistortion"),
        *PACK,
    ],
    test=[LOAD[0], dict(type="Resize", scale=(8, 8)), LOAD[1], *PACK],
)


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    """Five images of different sizes; 'a' has all labels, the others lack some."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for task in TASKS:
        (root / task).mkdir(parents=True)
    for n, i in enumerate(IDS):
        size = (10 + n, 13)
        _save(root / f"images/{i}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        labels = dict(
            semseg=rng.integers(0, 4, size, dtype=np.uint8),
            saliency=rng.integers(0, 256, size, dtype=np.uint8),
            normals=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            depth=rng.integers(0, 60000, size, dtype=np.uint16),
        )
        for k, (task, label) in enumerate(labels.items()):
            if n == 0 or (n + k) % 3:
                _save(root / task / f"{i}.png", label)
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("\n".join(IDS))
    return root


def _dataset(root, folder=None, pipeline="plain", tasks=TASKS, **kwargs):
    steps = PIPELINES[pipeline]
    kwargs.setdefault("serialize_data", False)  # takes half a second and changes nothing
    return MultiTaskDataset(str(root), tasks, pipeline=steps, cache=folder, **kwargs)


def _content(sample):
    labels = {task: sample["data_samples"].label(task) for task in TASKS}
    arrays = {"inputs": sample["inputs"], **{k: v for k, v in labels.items() if v is not None}}
    values = {k: (v.dtype, tuple(v.shape), v.numpy().tobytes()) for k, v in arrays.items()}
    return values, sample["data_samples"].metainfo


def _same(one, other):
    for index in range(len(IDS)):
        for draw in (SeededIndex(index, (3, epoch, index)) for epoch in range(3)):
            assert _content(one[draw]) == _content(other[draw])


@pytest.fixture
def written(monkeypatch):
    """Paths of the cache files that were written."""
    paths, save = [], cache.save_file

    def noted(arrays, path, metadata):
        paths.append(path)
        save(arrays, path, metadata)

    monkeypatch.setattr(cache, "save_file", noted)
    return paths


def _kept(folder):
    """The cached arrays of sample 'a'."""
    (path,) = Path(folder).glob("*/a.safetensors")
    return load_file(path)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_samples_are_those_of_the_files(root, tmp_path, written, monkeypatch, pipeline):
    files = _dataset(root, pipeline=pipeline)
    cached = _dataset(root, str(tmp_path / "new/cache"), pipeline)
    reopened = _dataset(root, str(tmp_path / "new/cache"), pipeline)
    expected = [_content(files[SeededIndex(i, (0, 0, i))]) for i in range(len(IDS))]
    _same(files, cached)
    assert len(written) == len(IDS)
    # cached files are not read again
    monkeypatch.setattr("mmengine.fileio.get", None)
    monkeypatch.setattr("PIL.Image.open", None)
    found = [_content(reopened[SeededIndex(i, (0, 0, i))]) for i in range(len(IDS))]
    assert found == expected


def test_values_are_kept_as_the_files_hold_them(root, tmp_path):
    _dataset(root, str(tmp_path / "cache"))[0]
    arrays = _kept(tmp_path / "cache")
    types = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    assert types == {
        "images": (np.uint8, (10, 13, 3)),
        "semseg": (np.uint8, (10, 13)),
        "saliency": (np.uint8, (10, 13)),
        "normals": (np.uint8, (10, 13, 3)),
        "depth": (np.uint16, (10, 13)),
    }


def test_a_sample_may_be_written_to(root, tmp_path):
    dataset = _dataset(root, str(tmp_path / "cache"))
    before = _content(dataset[0])
    sample = dataset[0]
    sample["inputs"].zero_()
    for task in TASKS:
        sample["data_samples"].label(task).zero_()
    assert _content(dataset[0]) == before


def test_workers_and_subsets_share_it(root, tmp_path, written):
    files, folder = _dataset(root), str(tmp_path / "cache")
    dataset = pickle.loads(pickle.dumps(_dataset(root, folder, serialize_data=True)))
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert [_content(s) for s in loader] == [_content(files[i]) for i in range(len(IDS))]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(IDS)
    _same(files, dataset)
    part = dataset.get_subset([3, 1])
    assert [_content(part[i]) for i in (0, 1)] == [_content(files[i]) for i in (3, 1)]
    assert written == []  # by this process


def test_true_takes_a_place_below_the_data(root, written):
    _dataset(root, True)[0]
    assert written[0].is_relative_to(root / "cache")
    for nothing in (None, False):
        assert _dataset(root, nothing)._stored is None


def _touch(path):
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def _repaint(path):
    state, size = path.stat(), path.stat().st_size
    image = np.array(Image.open(path))
    image[...] = 1
    Image.fromarray(image).save(path)
    assert path.stat().st_size != size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda root: _touch(root / "images/c.png"), 1),
        (lambda root: _touch(root / "normals/a.png"), 1),
        (lambda root: _repaint(root / "images/c.png"), 1),
        (lambda root: _repaint(root / "semseg/a.png"), 1),
        (lambda root: (root / "saliency/a.png").unlink(), 1),
        (lambda root: (root / "splits/train.txt").write_text("c\nb"), 0),
    ],
    ids=["image time", "label time", "image size", "label size", "label gone", "split"],
)
def test_a_sample_whose_files_change_is_written_again(root, tmp_path, written, change, count):
    folder = str(tmp_path / "cache")
    for _ in range(2):
        list(_dataset(root, folder))
    assert len(written) == len(IDS)
    change(root)
    files, cached = _dataset(root), _dataset(root, folder)
    assert [_content(s) for s in files] == [_content(s) for s in cached]
    assert len(written) == len(IDS) + count


def test_other_tasks_and_settings_have_their_own(root, tmp_path, written):
    folder = str(tmp_path / "cache")
    for tasks in (
        TASKS,
        {k: v for k, v in TASKS.items() if k != "depth"},
        TASKS | dict(semseg=dict(type="Segmentation", num_classes=5)),
        TASKS,
    ):
        _dataset(root, folder, tasks=tasks)[0]
    assert len({path.parent for path in written}) == len(written) == 3


@pytest.mark.parametrize("cut", [0, 1, 20, 1000])
def test_a_file_that_is_incomplete_is_written_again(root, tmp_path, written, cut):
    list(_dataset(root, str(tmp_path / "cache")))
    (path,) = (tmp_path / "cache").glob("*/a.safetensors")
    path.write_bytes(path.read_bytes()[: -cut or None] if cut else b"0")
    dataset = _dataset(root, str(tmp_path / "cache"))
    _same(_dataset(root), dataset)
    assert len(written) == len(IDS) + 1


@pytest.mark.parametrize("pipeline", ["warp", "test"])
def test_corrupt_files_are_skipped_or_refused_alike(root, tmp_path, pipeline):
    for name in ("images/b", "normals/c", "saliency/d"):
        path = root / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    options = dict(pipeline=pipeline, test_mode=pipeline == "test")
    folder = str(tmp_path / "cache")
    files, cached = (_dataset(root, f, on_error="skip", **options) for f in (None, folder))
    _same(files, cached)
    assert cached[SeededIndex(1, (0, 0, 1))]["data_samples"].skipped
    strict = _dataset(root, folder, **options)
    with pytest.raises(CorruptFileError, match=r"images/b.png: the PNG is truncated"):
        strict[1]
    with pytest.raises(InputError, match="normals/c.png: cannot be read"):
        strict[2]


@REGISTRY.register_module()
class WithOwnDecode(Task):
    """A third-party task that reads its labels in ``decode``."""

    out_channels = 1

    class label(ForegroundMask):  # noqa: N801
        def decode(self, path):
            return np.array(Image.open(path)).astype(np.float64) / 7

    label = label()
    loss = to_prediction = metric = draw = None


def test_labels_with_a_custom_decode_are_cached_as_decoded(root, tmp_path):
    tasks = dict(saliency=dict(type="WithOwnDecode"))
    files, cached = (_dataset(root, f, tasks=tasks) for f in (None, str(tmp_path / "cache")))
    _same(files, cached)
    assert _kept(tmp_path / "cache")["saliency"].dtype == np.float64


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_message_and_leaves_nothing(root, tmp_path, monkeypatch, code):
    folder = tmp_path / "cache"

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(InputError, match=rf"{folder}.*cannot be written.*{os.strerror(code)}"):
        _dataset(root, str(folder))[0]
    assert [p for p in folder.rglob("*") if p.is_file()] == []
    monkeypatch.undo()
    _same(_dataset(root), _dataset(root, str(folder)))


def test_a_folder_that_cannot_be_is_one_message(root, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match=rf"cache {tmp_path}/{folder}: cannot write there"):
            _dataset(root, str(tmp_path / folder))
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="`cache` must be a folder, True, or None"):
        _dataset(root, 3)


def test_a_root_that_may_only_be_read(root, tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def refuse(path, *args, **kwargs):
        if path.is_relative_to(root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"Read-only file system.*`cache` to a writable folder"):
        _dataset(root, True)[0]
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / "elsewhere", "~/there"):
        _same(_dataset(root), _dataset(root, folder))
    assert list((tmp_path / "there").rglob("*.safetensors"))


def test_another_loader_of_images_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setitem(PIPELINES, "none", [dict(type="LoadLabels"), *PACK])
    with pytest.raises(InputError, match="`cache` needs LoadImageFromFile"):
        _dataset(root, str(tmp_path / "cache"), "none")
