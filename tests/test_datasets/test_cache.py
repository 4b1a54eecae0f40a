"""The packed cache: the same samples as from files, written once, and never half."""

import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from waiting import PATIENCE, wait_until

from vmt_mm.datasets import MultiTaskDataset, SeededIndex, cache
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.registry import TASKS as REGISTRY
from vmt_mm.tasks import Task
from vmt_mm.tasks.binary import ForegroundMask
from vmt_mm.utils.packed_arrays import PackedArraysWriter

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
    """Five pictures of different sizes; 'a' has all labels, the others lack some."""
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
    kwargs.setdefault("serialize_data", False)  # it costs half a second, and changes nothing
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
def builds(monkeypatch):
    """The names of the caches that were written."""
    written = []
    finish = PackedArraysWriter.finish

    def counted(writer, key):
        written.append(Path(writer._stream.name).name)
        finish(writer, key)

    monkeypatch.setattr(PackedArraysWriter, "finish", counted)
    return written


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_samples_are_those_of_the_files(root, tmp_path, builds, monkeypatch, pipeline):
    files = _dataset(root, pipeline=pipeline)
    cached = _dataset(root, str(tmp_path / "new/cache"), pipeline)
    reopened = _dataset(root, str(tmp_path / "new/cache"), pipeline)
    assert len(builds) == 1
    expected = [_content(files[SeededIndex(i, (0, 0, i))]) for i in range(len(IDS))]
    _same(files, cached)
    # what is kept is not read again
    monkeypatch.setattr("mmengine.fileio.get", None)
    monkeypatch.setattr("PIL.Image.open", None)
    found = [_content(reopened[SeededIndex(i, (0, 0, i))]) for i in range(len(IDS))]
    assert found == expected


def test_values_are_kept_as_the_files_hold_them(root, tmp_path):
    dataset = _dataset(root, str(tmp_path / "cache"))
    arrays = dataset._stored["a"].arrays
    types = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    assert types == {
        "image": (np.uint8, (10, 13, 3)),
        "label/semseg": (np.uint8, (10, 13)),
        "label/saliency": (np.uint8, (10, 13)),
        "label/normals": (np.uint8, (10, 13, 3)),
        "label/depth": (np.uint16, (10, 13)),
    }
    assert not any(array.flags.writeable for array in arrays.values())


def test_a_sample_may_be_written_to(root, tmp_path):
    dataset = _dataset(root, str(tmp_path / "cache"))
    before = _content(dataset[0])
    sample = dataset[0]
    sample["inputs"].zero_()
    for task in TASKS:
        sample["data_samples"].label(task).zero_()
    dataset._stored["a"].image()[...] = 0
    assert _content(dataset[0]) == before


def test_workers_and_subsets_share_it(root, tmp_path, builds):
    files, folder = _dataset(root), str(tmp_path / "cache")
    dataset = pickle.loads(pickle.dumps(_dataset(root, folder, serialize_data=True)))
    _same(files, dataset)
    assert len(pickle.dumps(dataset._stored)) < 2000
    part = dataset.get_subset([3, 1])
    assert [_content(part[i]) for i in (0, 1)] == [_content(files[i]) for i in (3, 1)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert [_content(s) for s in loader] == [_content(files[i]) for i in range(len(IDS))]
    assert len(builds) == 1


def test_true_takes_a_place_below_the_data(root, builds):
    _dataset(root, True)
    assert (root / "cache" / builds[0].split(".")[1]).with_suffix(".cache").is_file()
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
    "change",
    [
        lambda root: _touch(root / "images/c.png"),
        lambda root: _touch(root / "normals/a.png"),
        lambda root: _repaint(root / "images/c.png"),
        lambda root: _repaint(root / "semseg/a.png"),
        lambda root: (root / "saliency/a.png").unlink(),
        lambda root: (root / "splits/train.txt").write_text("c\nb"),
    ],
    ids=["image time", "label time", "image size", "label size", "label gone", "split"],
)
def test_a_change_of_the_sources_writes_it_anew(root, tmp_path, builds, change):
    folder = str(tmp_path / "cache")
    for _ in range(2):
        _dataset(root, folder)
    assert len(builds) == 1
    change(root)
    files, cached = _dataset(root), _dataset(root, folder)
    assert len(builds) == 2
    assert [_content(s) for s in files] == [_content(s) for s in cached]


def test_other_tasks_and_settings_have_their_own(root, tmp_path, builds):
    folder = str(tmp_path / "cache")
    _dataset(root, folder)
    _dataset(root, folder, tasks={k: v for k, v in TASKS.items() if k != "depth"})
    _dataset(root, folder, tasks=TASKS | dict(semseg=dict(type="Segmentation", num_classes=5)))
    _dataset(root, folder)
    assert len(set(builds)) == 3
    assert len(list((tmp_path / "cache").glob("*.cache"))) == 3


@pytest.mark.parametrize("cut", [0, 1, 20, 1000])
def test_a_file_that_is_not_whole_is_written_anew(root, tmp_path, builds, cut):
    _dataset(root, str(tmp_path / "cache"))
    (path,) = (tmp_path / "cache").glob("*.cache")
    path.write_bytes(path.read_bytes()[: -cut or None] if cut else b"0")
    dataset = _dataset(root, str(tmp_path / "cache"))
    assert len(builds) == 2
    _same(_dataset(root), dataset)


@pytest.mark.parametrize("pipeline", ["warp", "test"])
def test_damaged_files_are_skipped_or_refused_alike(root, tmp_path, pipeline):
    for name in ("images/b", "normals/c", "saliency/d"):
        path = root / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    options = dict(pipeline=pipeline, test_mode=pipeline == "test")
    folder = str(tmp_path / "cache")
    files, cached = (_dataset(root, f, damaged="skip", **options) for f in (None, folder))
    _same(files, cached)
    assert cached[SeededIndex(1, (0, 0, 1))]["data_samples"].damaged
    strict = _dataset(root, folder, **options)
    with pytest.raises(CorruptFileError, match=r"images/b.png: the PNG is truncated"):
        strict[1]
    with pytest.raises(InputError, match="normals/c.png: cannot be read"):
        strict[2]


@REGISTRY.register_module()
class WithOwnDecode(Task):
    """A task from outside whose labels are read by ``decode``."""

    out_channels = 1

    class label(ForegroundMask):  # noqa: N801
        def decode(self, path):
            return np.array(Image.open(path)).astype(np.float64) / 7

    label = label()
    loss = to_prediction = metric = draw = None


def test_labels_with_a_decode_of_their_own_are_kept_as_decoded(root, tmp_path):
    tasks = dict(saliency=dict(type="WithOwnDecode"))
    files, cached = (_dataset(root, f, tasks=tasks) for f in (None, str(tmp_path / "cache")))
    assert cached._stored["a"].arrays["label/saliency"].dtype == np.float64
    _same(files, cached)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_message_and_leaves_nothing(root, tmp_path, monkeypatch, code):
    folder = tmp_path / "cache"
    add, added = PackedArraysWriter.add, []

    def full(writer, arrays):
        if len(added) == 3:
            raise OSError(code, os.strerror(code))
        added.append(writer)
        add(writer, arrays)

    monkeypatch.setattr(PackedArraysWriter, "add", full)
    with pytest.raises(InputError, match=rf"{folder}.*cannot be .*written.*{os.strerror(code)}"):
        _dataset(root, str(folder))
    assert [p.name for p in folder.iterdir()] == [".lock"]
    monkeypatch.undo()
    _same(_dataset(root), _dataset(root, str(folder)))


def test_a_folder_that_cannot_be_is_one_message(root, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/below"):
        with pytest.raises(
            InputError, match=rf"{tmp_path}/{folder}/.*the data set's `cache` a folder"
        ):
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
    with pytest.raises(InputError, match=r"cache/train.*Read-only file system.*`cache` a folder"):
        _dataset(root, True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / "elsewhere", "~/there"):
        _same(_dataset(root), _dataset(root, folder))
    assert list((tmp_path / "there").glob("*.cache"))


def test_another_loader_of_images_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setitem(PIPELINES, "none", [dict(type="LoadLabels"), *PACK])
    with pytest.raises(InputError, match="`cache` needs LoadImageFromFile"):
        _dataset(root, str(tmp_path / "cache"), "none")


def test_what_killed_writers_left_is_removed(root, tmp_path):
    left = tmp_path / "cache/.train-0.cache.abcd1234.part"
    left.parent.mkdir()
    left.write_bytes(b"half")
    _dataset(root, str(tmp_path / "cache"))
    assert not left.exists()


def _start(root, marks, name):
    """Open the cache once both processes are up; mark whether this one read the files."""
    read = cache._read

    def marked(*arguments):
        (marks / f"built.{name}").touch()
        time.sleep(0.1)  # long enough for the other process to come along
        return read(*arguments)

    cache._read = marked
    (marks / f"up.{name}").touch()
    assert wait_until(lambda: len(list(marks.glob("up.*"))) == 2)
    dataset = _dataset(root, str(marks / "cache"))
    (marks / f"found.{name}").write_text(str(sum(int(s["inputs"].sum()) for s in dataset)))


def test_processes_that_start_together_write_it_once(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_read", cache._read)  # _start changes it
    other = multiprocessing.get_context("fork").Process(
        target=_start, args=(root, tmp_path, "there")
    )
    other.start()
    _start(root, tmp_path, "here")
    other.join(PATIENCE)
    assert other.exitcode == 0
    assert len(list(tmp_path.glob("built.*"))) == 1
    found = [path.read_text() for path in tmp_path.glob("found.*")]
    assert len(found) == 2
    assert found[0] == found[1]
