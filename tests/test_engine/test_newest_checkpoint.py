"""The newest intact checkpoint of a work dir is found."""

import os

import pytest
import torch
from mmengine.logging import MMLogger
from small_runs import own_state

from vmt_mm.checkpoints.files import is_intact, newest_checkpoint
from vmt_mm.errors import InputError


def write(path, iteration, **more):
    path.parent.mkdir(exist_ok=True)
    content = dict(state_dict=dict(w=torch.ones(999)), optimizer={}, meta=dict(iter=iteration))
    torch.save({**content, **more}, path)


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "flipped":  # one bit of the weights: only the checksum shows it
        content[content.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(dict(flipped=content, truncated=content[:-900], empty=b"")[kind])


@pytest.fixture
def logged(tmp_path):
    """Messages logged during the test."""
    with own_state():
        path = tmp_path / "the.log"
        MMLogger.get_instance("of-the-test", log_file=str(path))
        yield path.read_text


def test_the_one_that_has_trained_longest(tmp_path, logged):
    for age, (name, iteration) in enumerate(
        dict(interrupted=25, epoch_2=20, epoch_9=10, iter_100=24).items()
    ):
        write(tmp_path / f"{name}.pth", iteration)
        os.utime(tmp_path / f"{name}.pth", (1000 + age, 1000 + age))  # date and name are ignored
    assert newest_checkpoint(tmp_path) == str(tmp_path / "interrupted.pth")
    write(tmp_path / "epoch_3.pth", 25)  # same iteration, written later
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_3.pth")
    assert "damaged" not in logged()


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty"])
def test_a_damaged_one_is_passed_over(tmp_path, logged, kind):
    for number in (1, 2, 3):
        write(tmp_path / f"epoch_{number}.pth", number)
    for number in (2, 3):
        damage(tmp_path / f"epoch_{number}.pth", kind)
        assert not is_intact(tmp_path / f"epoch_{number}.pth")
    first = tmp_path / "epoch_1.pth"
    assert newest_checkpoint(tmp_path) == str(first)
    for number in (2, 3):
        name = tmp_path / f"epoch_{number}.pth"
        assert f"{name}: skipped a damaged checkpoint; resuming from {first}" in logged()
    assert logged().count("WARNING") == 2
    damage(first, kind)
    with pytest.raises(InputError, match=f"{tmp_path}: all checkpoints are damaged") as caught:
        newest_checkpoint(tmp_path)
    for number in (1, 2, 3):
        assert f"epoch_{number}.pth" in str(caught.value)


def test_other_files_are_not_candidates(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None
    torch.save(dict(state_dict={}, meta=dict(iter=99)), tmp_path / "best_semseg_mIoU_epoch_9.pth")
    torch.save(dict(optimizer={}), tmp_path / "strange.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    (tmp_path / ".epoch_7.pth.x.part").write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) is None
    write(tmp_path / "epoch_1.pth", 1)
    assert newest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")


def test_another_folder_by_last_checkpoint(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    write(out / "epoch_1.pth", 1)
    write(out / "epoch_2.pth", 2)
    write(work / "epoch_1.pth", 1)
    (work / "last_checkpoint").write_text(str(out / "epoch_1.pth"))
    assert newest_checkpoint(work) == str(out / "epoch_2.pth")
    write(work / "interrupted.pth", 3)
    assert newest_checkpoint(work) == str(work / "interrupted.pth")


@pytest.mark.parametrize("content", ["", "\n", "gone/epoch_3.pth"])
def test_a_last_checkpoint_that_names_none(tmp_path, content):
    (tmp_path / "last_checkpoint").write_text(content)
    assert newest_checkpoint(tmp_path) is None
    write(tmp_path / "epoch_1.pth", 1)
    assert newest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")
