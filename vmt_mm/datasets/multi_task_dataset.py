"""The dataset class for any dense tasks, in the project's folder layout."""

import logging
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from vmt_mm.datasets.cache import SampleCache
from vmt_mm.datasets.sampler import SeededIndex, seeded_by
from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.unfit import refuse_unfit
from vmt_mm.errors import CorruptFileError, InputError, refuse_unread
from vmt_mm.registry import DATASETS, own_scope
from vmt_mm.tasks import build_tasks
from vmt_mm.utils import layout
from vmt_mm.utils.files import check_outputs


@DATASETS.register_module()
class MultiTaskDataset(BaseDataset):
    """Dataset of images, each labelled for any subset of the tasks.

    Layout: ``<root>/images/<id>.jpg|png``, ``<root>/<task>/<id>.png`` per task (or its
    ``folder``), and one id per line in ``<root>/splits/<split>.txt``. An image without a label file
    has no label for that task. Raises InputError if a file does not match the layout or its task.

    Args:
        data_root: root folder.
        tasks: name -> task config (or built task); the model's tasks or a subset of them.
        ann_file: split file with one id per line, relative to ``data_root``.
        metainfo: per task, ``dict(classes=..., palette=...)``.
        pipeline: transforms.
        test_mode: fail, instead of drawing another sample, if a transform drops one.
        on_error: for invalid files, 'raise' or 'skip': a skipped label counts as missing; a skipped
            image is replaced by another sample in training, and by a black placeholder without
            labels in test mode. ``LabelReportHook`` reports skipped files.
        part: (k, n): use every n-th id, starting at the k-th, 0 <= k < n; None uses all.
        id_prefix: folder put before the ids, to separate outputs of several datasets.
        cache: folder of decoded files, see :class:`SampleCache`; True means ``<data_root>/cache``.
        kwargs: see ``mmengine.dataset.BaseDataset``.

    Example::

        dict(type="MultiTaskDataset", data_root="data/rooms", ann_file="splits/train.txt",
             tasks=dict(depth=dict(type="Depth"), edge=dict(type="Edge")), pipeline=pipeline)
    """

    #: Arguments of mmengine's and mmseg's datasets that are not supported -> what to use.
    unread: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("data_prefix", "img_suffix", "seg_map_suffix", "gt_seg_map_loader_cfg"),
            "files are found by id, labels in <data_root>/<task>",
        ),
        **dict.fromkeys(("reduce_zero_label", "ignore_index"), "tasks define their label values"),
        "filter_cfg": "list the samples to use in `ann_file`",
    }

    def __init__(
        self,
        data_root: str | Path,
        tasks: Mapping[str, Mapping],
        ann_file: str | Path = "splits/train.txt",
        metainfo: Mapping | None = None,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
        on_error: str = "raise",
        part: Sequence[int] | None = None,
        id_prefix: str = "",
        cache: str | Path | bool | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unread(MultiTaskDataset, kwargs)
        data_root, ann_file = os.path.expanduser(data_root), os.path.expanduser(ann_file)
        is_folder = isinstance(id_prefix, str) and not layout.leads_outside(id_prefix)
        is_cache = cache is None or (isinstance(cache, (str, Path, bool)) and cache != "")
        for name, value, right, rule in (
            ("on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'"),
            ("part", part, _is_part(part), "(k, n), integers with 0 <= k < n"),
            ("id_prefix", id_prefix, is_folder, "a relative folder without '..', for outputs"),
            ("cache", cache, is_cache, "a folder, True, or None for no cache"),
        ):
            if not right:
                raise InputError(f"{data_root}: `{name}` must be {rule}, got {value!r}")
        if problem := self.find_problem(data_root, ann_file):
            raise InputError(problem)
        self.on_error, self.part, self.cache = on_error, part or (0, 1), cache
        self.id_prefix = f"{Path(id_prefix).as_posix()}/" if id_prefix else ""
        self._root, self._stored = Path(data_root), None
        self.tasks = build_tasks(tasks)
        self.label_specs = {name: task.label for name, task in self.tasks.items()}
        with own_scope():  # of the pipeline's transforms
            kwargs |= dict(metainfo=metainfo, pipeline=list(pipeline), test_mode=test_mode)
            super().__init__(ann_file, data_root=data_root, **kwargs)
        refuse_unfit(self.pipeline.transforms, data_root)
        self._check_metainfo(metainfo or {})

    def _check_metainfo(self, given: Mapping) -> None:
        """Raise InputError for class names that do not match the task, and misspelt keys."""
        rule = f"{self.data_root}: metainfo must be dict(<task>=dict(classes=..., palette=...))"
        without = [name for name in self.tasks if name not in self.metainfo]
        for name, meta in given.items():
            if not isinstance(meta, Mapping):
                raise InputError(f"{rule}, got {name}={meta!r}")
            known = dict.fromkeys(meta, ["classes", "palette"])
            if name not in self.tasks:  # metainfo of tasks that are not used is allowed
                known[name] = without
            for word, names in known.items():
                near = word not in names and get_close_matches(str(word).lower(), names, 1)
                if near:
                    raise InputError(f"{rule}, got the key {word!r}; did you mean {near[0]!r}?")
        for name, task in self.tasks.items():
            task.check_metainfo(self.metainfo.get(name, {}), str(self.data_root))

    @classmethod
    def find_problem(cls, data_root: str, ann_file: str = "splits/train.txt") -> str | None:
        """Return a message about a missing folder or split; None if both exist."""
        root, path = Path(data_root).expanduser(), Path(ann_file).expanduser()
        expected = "images/<id>.jpg, <task>/<id>.png and splits/{train,val}.txt"
        if not root.is_dir():
            advice = f"expected {expected}; set --cfg-options data_root=<dataset folder>"
            return f"data_root {str(root)!r} is not a folder: {advice}"
        if not (root / path).is_file():
            return f"{root / path}: no such split file; expected {expected}"
        return None

    def full_init(self) -> None:
        """List the samples and open the cache."""
        super().full_init()
        if not self.cache or self._stored:
            return
        readers = [t for t in self.pipeline.transforms if isinstance(t, LoadImageFromFile)]
        if not readers:
            raise InputError(f"{self.ann_file}: `cache` needs LoadImageFromFile in the pipeline")
        root, parts = self._root, ["images", "splits"]
        parts += [spec.folder for spec in self.label_specs.values()]
        folder = root / "cache" if self.cache is True else Path(str(self.cache)).expanduser()
        check_outputs(dict(cache=folder), [root / part for part in parts])
        self._stored = SampleCache(folder, root, self.label_specs, readers[0])

    def load_data_list(self) -> list[dict]:
        """List the samples of the split: ``img_path``, ``sample_id``, ``label_paths`` per task."""
        root = self._root
        first, step = self.part
        listed = layout.read_ids(Path(str(self.ann_file)))
        ids = listed[first::step]
        if not ids:
            found = f"`part`=({first}, {step}) selects none of {len(listed)} id(s)"
            raise InputError(f"{self.ann_file}: {found}; use (k, n) with n <= {len(listed)}")
        images = layout.list_files(root / "images", layout.IMAGE_SUFFIXES)
        if missing := images.missing(ids):
            raise InputError(f"{self.ann_file}: {missing}")
        specs = self.label_specs.items()
        labels = {
            name: layout.list_files(root / spec.folder, spec.suffixes) for name, spec in specs
        }
        for name, listing in labels.items():
            self._check_labels(name, listing, ids, images.files)
        samples = layout.samples_of(ids, images, labels)
        return [dict(s, sample_id=self.id_prefix + s["sample_id"]) for s in samples]

    def _check_labels(
        self, task: str, listing: layout.Listing, ids: Sequence[str], images: Mapping[str, str]
    ) -> None:
        """Warn about a task's files without an image; raise InputError if no file matches an id."""
        folder = listing.folder
        if not folder.is_dir():
            problem = f"no folder with the labels of task {task!r}"
            advice = "leave the task out of this dataset's `tasks`, or set the task's `folder`"
            raise InputError(f"{folder}: {problem}; {advice}")
        unused, matched = listing.unused(images), any(i in listing.files for i in ids)
        said = f"{self.ann_file}: no id has a label of task {task!r}"
        if unused and not matched:
            raise InputError(f"{said}. {unused}")
        if unused:
            print_log(f"{unused}. These files are ignored", "current", logging.WARNING)
        elif listing.files and not matched:
            text = f"{said}; the {len(listing.files)} file(s) in {folder} belong to other images"
            print_log(text, "current", logging.WARNING)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one sample, with random numbers seeded by a :class:`SeededIndex`."""
        skipped: dict[str, str] = {}
        for _ in range(self.max_refetch + 1):
            with seeded_by(idx):
                results = self._run_pipeline(int(idx), skipped)
            if results is not None or self.test_mode:
                return results
            idx = idx.another(len(self)) if isinstance(idx, SeededIndex) else self._rand_another()
        raise InputError(
            f"{self.ann_file}: {self.max_refetch + 1} samples in a row were unusable"
            + "".join(f"; {reason}" for reason in list(skipped.values())[:3])
        )

    def _run_pipeline(self, index: int, skipped: dict[str, str]) -> Any:
        """Return one sample, or None if it is unusable; add skipped files to ``skipped``."""
        info = self.get_data_info(index)
        info.update(label_specs=self.label_specs, on_error=self.on_error, skipped=skipped)
        info["stored"] = self._stored[info] if self._stored else {}
        try:
            return self.pipeline(dict(info))
        except CorruptFileError as error:
            if self.on_error == "raise":
                raise
            skipped[info["img_path"]] = str(error)
        return self.pipeline(dict(info, stand_in=True, label_paths={})) if self.test_mode else None


def _is_part(part: object) -> bool:
    if not isinstance(part, (list, tuple)):
        return part is None
    return [type(n) for n in part] == [int, int] and 0 <= part[0] < part[1]
