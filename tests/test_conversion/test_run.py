"""Interrupted runs, archives and links all give the same labels."""

import dataclasses
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from raw_pascal import SIZE, box, damage, make_raw, read, recipe, save_parts, save_png, thing, tree

from vmt_mm.conversion import convert, image, run
from vmt_mm.errors import InputError


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw")


def test_a_repaired_source_is_completed(raw, tmp_path):
    out, expected = tmp_path / "out", tmp_path / "expected"
    source = make_raw(tmp_path / "sound")
    convert(recipe(), source, expected)
    damage(raw)
    convert(recipe(), raw, out)
    for path in source.rglob("*"):  # as newer files, like a repeated download
        if path.is_file():
            target = raw / path.relative_to(source)
            if not target.is_file() or target.read_bytes() != path.read_bytes():
                target.write_bytes(path.read_bytes())
    report = convert(recipe(), raw, out)
    assert report.problems == []
    assert tree(out) == tree(expected)


def test_a_second_run_only_converts_missing_labels(raw, tmp_path):
    out = tmp_path / "out"
    convert(recipe(), raw, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.[pj]*g")}
    assert convert(recipe(), raw, out).converted_now == 0
    (out / "edge/a.png").unlink()
    (out / "normals/d.png").write_bytes(b"")  # an incomplete file
    newer = raw / "human_parts/c.mat"
    save_parts(newer, thing(15, ("head", box(0, 12, 0, 16))))
    report = convert(recipe(), raw, out)
    assert report.converted_now == 3
    assert (read(out / "human_parts/c.png") == 1).all()
    assert {p.stem for p, t in before.items() if p.stat().st_mtime_ns != t} == {"a", "c", "d"}
    # A label without a source is removed; changed settings convert everything again.
    save_parts(newer, thing(8))
    assert convert(recipe(), raw, out).converted_now == 1
    assert not (out / "human_parts/c.png").exists()
    assert convert(recipe("x,-y,-z"), raw, out).converted_now == 5


def kill(monkeypatch, *arguments):
    """Start a conversion that is interrupted after seven labels."""
    written = []

    def killed(path, values, real=image.write_image):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        real(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(image, "write_image", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(*arguments)


def pack(raw, archive, mode="gz"):
    with tarfile.open(archive, f"w:{mode}") as tar:
        tar.add(raw, "PASCAL_MT")
    return archive


def test_a_killed_run_continues(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kill(monkeypatch, recipe(), raw, out)
    journal = out / "conversion.jsonl"
    journal.write_text(journal.read_text() + '{"id": "b", "sour')
    left = out / "edge/.b.png.abcdefgh.part"
    left.write_bytes(b"half")
    report = convert(recipe(), raw, out)
    assert report.converted_now == 4
    assert not left.exists()
    convert(recipe(), raw, tmp_path / "expected")
    assert tree(out) == tree(tmp_path / "expected")


@pytest.mark.parametrize("prefix", ["PASCAL_MT", "./data/PASCAL_MT", "."])
def test_the_archive_gives_the_same(raw, tmp_path, prefix):
    archive, out = tmp_path / "PASCAL_MT.tgz", tmp_path / "out"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, prefix)
    report = convert(recipe(), archive, out)
    assert report.problems == []
    convert(recipe(), raw, tmp_path / "expected")
    assert tree(out) == tree(tmp_path / "expected")
    assert not (out / ".unpacked").exists()
    assert convert(recipe(), archive, out).converted_now == 0


def test_an_archive_of_a_damaged_set_names_its_files(raw, tmp_path):
    expected = damage(raw)
    archive = tmp_path / "PASCAL_MT.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, "PASCAL_MT")
    problems = convert(recipe(), archive, tmp_path / "out").problems
    assert len(problems) == len(expected)
    assert all(p.startswith(e) for p, e in zip(problems, expected, strict=True))
    assert str(tmp_path) not in " ".join(problems)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz", ""])
def test_a_truncated_archive_writes_nothing(raw, tmp_path, mode):
    archive = tmp_path / f"PASCAL_MT.tar{'.' * bool(mode)}{mode}"
    with tarfile.open(archive, f"w:{mode}") as tar:
        tar.add(raw, "PASCAL_MT")
    with tarfile.open(archive) as tar:
        starts = [member.offset for member in tar.getmembers()]
    intact = archive.read_bytes()
    # Also between two files and within a header, where nothing else is wrong.
    cuts = (
        [len(intact) // 2, len(intact) - 10]
        if mode
        else [starts[-2], starts[-1] + 100, starts[-1] - 9]
    )
    for cut in cuts:
        archive.write_bytes(intact[:cut])
        with pytest.raises(InputError, match=f"{archive}: the archive is damaged or truncated"):
            convert(recipe(), archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    archive.write_bytes(intact)
    assert convert(recipe(), archive, tmp_path / "out").problems == []


@pytest.mark.parametrize("change", ["axes", "sources"])
def test_a_mixed_set_is_not_reported_as_complete(raw, tmp_path, monkeypatch, change):
    out = tmp_path / "out"
    convert(recipe(), raw, out)
    assert json.loads((out / "report.json").read_text())["whole"]
    for i in "abcde" if change == "sources" else "":
        save_png(raw / f"sal_distill/{i}.png", 99 * box(0, 6, 0, 8))
    axes = "x,y,z" if change == "axes" else "x,-y,z"
    kill(monkeypatch, recipe(axes), raw, out)
    assert not (out / "report.json").exists()
    assert list((out / "splits").iterdir()) == []
    convert(recipe(axes), raw, out)
    convert(recipe(axes), raw, tmp_path / "expected")
    assert tree(out) == tree(tmp_path / "expected")
    assert (out / "report.json").exists()


def test_unpacked_files_are_removed_however_the_run_ends(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kill(monkeypatch, recipe(), pack(raw, tmp_path / "PASCAL_MT.tgz"), out)
    assert (out / ".unpacked").is_dir()
    assert convert(recipe(), raw, out).problems == []
    assert not (out / ".unpacked").exists()


def test_files_unpacked_by_a_killed_run_are_used_if_the_archive_is_the_same(
    raw, tmp_path, monkeypatch
):
    archive, out = pack(raw, tmp_path / "PASCAL_MT.tar", ""), tmp_path / "out"
    kill(monkeypatch, recipe(), archive, out)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_unpack", None)
        assert convert(recipe(), archive, out).converted_now == 4
    kill(monkeypatch, recipe("x,y,z"), archive, out)
    save_png(raw / "sal_distill/a.png", 99 * box(0, 6, 0, 8))
    convert(recipe(), pack(raw, archive, ""), out)
    convert(recipe(), raw, tmp_path / "expected")
    assert tree(out) == tree(tmp_path / "expected")


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_flipped_byte_of_a_compressed_archive_is_damage(raw, tmp_path, mode):
    # the first of several blocks is intact
    (raw / "noise.bin").write_bytes(np.random.default_rng(0).bytes(2_500_000))
    archive = pack(raw, tmp_path / f"PASCAL_MT.tar.{mode}", mode)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(InputError, match=f"{archive}: the archive is damaged or truncated"):
        convert(recipe(), archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_byte_of_a_header_is_damage(raw, tmp_path):
    archive = pack(raw, tmp_path / "PASCAL_MT.tar", "")
    with tarfile.open(archive) as tar:
        starts = [member.offset for member in tar.getmembers()]
    intact = archive.read_bytes()
    for start in (starts[1], starts[len(starts) // 2], starts[-1]):
        content = bytearray(intact)
        content[start + 150] ^= 0x55
        archive.write_bytes(content)
        with pytest.raises(InputError, match=f"{archive}: the archive is damaged or truncated"):
            convert(recipe(), archive, tmp_path / "out")


def test_hard_links_in_an_archive_are_files(raw, tmp_path):
    for name in ("sal_distill/{}.png", "JPEGImages/{}.jpg", "normals_distill/{}.png"):
        (raw / name.format("b")).unlink()
        os.link(raw / name.format("a"), raw / name.format("b"))
    archive = pack(raw, tmp_path / "PASCAL_MT.tar", "")
    with tarfile.open(archive) as tar:
        assert sum(member.islnk() for member in tar.getmembers()) == 3
    assert convert(recipe(), archive, tmp_path / "out").problems == []
    convert(recipe(), raw, tmp_path / "expected")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_leftovers_of_a_killed_run_are_removed_below_folders_of_ids(raw, tmp_path):
    for path in [p for p in raw.rglob("a.*") if p.is_file()]:
        (path.parent / "sub").mkdir(exist_ok=True)
        shutil.move(path, path.parent / "sub" / path.name)
    (raw / "ImageSets/Context/train.txt").write_text("sub/a\nb\nc\n")
    out = tmp_path / "out"
    assert convert(recipe(), raw, out).problems == []
    left = [out / f"{name}.part" for name in ("edge/sub/.a.png.abcdefgh", "images/.b.jpg.abcdefgh")]
    for path in left:
        path.write_bytes(b"half")
    convert(recipe(), raw, out)
    assert [path for path in left if path.exists()] == []
    assert read(out / "saliency/sub/a.png").shape == SIZE


def test_links_share_the_file_and_leave_it_as_it_is(raw, tmp_path):
    source, out = raw / "JPEGImages/a.jpg", tmp_path / "out"
    os.chmod(source, 0o600)
    convert(recipe(), raw, out, link=True)
    assert (out / "images/a.jpg").samefile(source)
    assert source.stat().st_mode & 0o777 == 0o600
    (out / "edge/a.png").unlink()
    assert convert(recipe(), raw, out, link=True).converted_now == 1
    assert (out / "images/a.jpg").samefile(source)


def test_two_workers_give_the_same(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "one")
    convert(recipe(), raw, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_folder_of_another_dataset_is_refused(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    other = dataclasses.replace(recipe(), name="NYUD_MT")
    with pytest.raises(InputError, match="out: contains PASCAL_MT, not NYUD_MT"):
        convert(other, raw, tmp_path / "out")
