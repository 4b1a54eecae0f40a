"""Runs that were stopped, sources that are archives, links: the same labels come out."""

import dataclasses
import os
import tarfile

import pytest
from raw_pascal import box, damage, make_raw, read, recipe, save_parts, thing, tree

from vmt_mm.conversion import convert, image
from vmt_mm.errors import InputError


@pytest.fixture
def raw(tmp_path):
    return make_raw(tmp_path / "raw")


def test_what_is_mended_is_completed(raw, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    source = make_raw(tmp_path / "sound")
    convert(recipe(), source, whole)
    damage(raw)
    convert(recipe(), raw, out)
    for path in source.rglob("*"):  # as newer files, a download that is repeated
        if path.is_file():
            target = raw / path.relative_to(source)
            if not target.is_file() or target.read_bytes() != path.read_bytes():
                target.write_bytes(path.read_bytes())
    report = convert(recipe(), raw, out)
    assert report.problems == []
    assert tree(out) == tree(whole)


def test_a_second_run_does_only_what_is_missing(raw, tmp_path):
    out = tmp_path / "out"
    convert(recipe(), raw, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.[pj]*g")}
    assert convert(recipe(), raw, out).converted == 0
    (out / "edge/a.png").unlink()
    (out / "normals/d.png").write_bytes(b"")  # something that is not whole
    newer = raw / "human_parts/c.mat"
    save_parts(newer, thing(15, ("head", box(0, 12, 0, 16))))
    report = convert(recipe(), raw, out)
    assert report.converted == 3
    assert (read(out / "human_parts/c.png") == 1).all()
    assert {p.stem for p, t in before.items() if p.stat().st_mtime_ns != t} == {"a", "c", "d"}
    # A label that is no more is removed; another setting makes all anew.
    save_parts(newer, thing(8))
    assert convert(recipe(), raw, out).converted == 1
    assert not (out / "human_parts/c.png").exists()
    assert convert(recipe("x,-y,-z"), raw, out).converted == 5


def test_a_run_that_was_killed_goes_on(raw, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []

    def killed(path, values, real=image.write_image):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        real(path, values)

    monkeypatch.setattr(image, "write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(recipe(), raw, out)
    monkeypatch.undo()
    journal = out / "conversion.jsonl"
    journal.write_text(journal.read_text() + '{"id": "b", "sour')
    left = out / "edge/.b.png.abcdefgh.part"
    left.write_bytes(b"half")
    report = convert(recipe(), raw, out)
    assert report.converted == 4
    assert not left.exists()
    convert(recipe(), raw, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("prefix", ["PASCAL_MT", "./data/PASCAL_MT", "."])
def test_the_archive_gives_the_same(raw, tmp_path, prefix):
    archive, out = tmp_path / "PASCAL_MT.tgz", tmp_path / "out"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, prefix)
    report = convert(recipe(), archive, out)
    assert report.problems == []
    convert(recipe(), raw, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")
    assert not (out / ".unpacked").exists()
    assert convert(recipe(), archive, out).converted == 0


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
    whole = archive.read_bytes()
    # Also between two files and within a header, where nothing else is amiss.
    cuts = (
        [len(whole) // 2, len(whole) - 10]
        if mode
        else [starts[-2], starts[-1] + 100, starts[-1] - 9]
    )
    for cut in cuts:
        archive.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"{archive}: the archive is damaged or truncated"):
            convert(recipe(), archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    archive.write_bytes(whole)
    assert convert(recipe(), archive, tmp_path / "out").problems == []


def test_links_share_the_file_and_leave_it_as_it_is(raw, tmp_path):
    source, out = raw / "JPEGImages/a.jpg", tmp_path / "out"
    os.chmod(source, 0o600)
    convert(recipe(), raw, out, link=True)
    assert (out / "images/a.jpg").samefile(source)
    assert source.stat().st_mode & 0o777 == 0o600
    (out / "edge/a.png").unlink()
    assert convert(recipe(), raw, out, link=True).converted == 1
    assert (out / "images/a.jpg").samefile(source)


def test_two_workers_give_the_same(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "one")
    convert(recipe(), raw, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_folder_of_another_data_set_is_refused(raw, tmp_path):
    convert(recipe(), raw, tmp_path / "out")
    other = dataclasses.replace(recipe(), name="NYUD_MT")
    with pytest.raises(InputError, match="out: holds PASCAL_MT, not NYUD_MT"):
        convert(other, raw, tmp_path / "out")
