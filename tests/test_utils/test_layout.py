"""Files of an id: Unicode forms, extensions, letter case, links, hidden files."""

import os
import unicodedata

import pytest

from vmt_mm.errors import InputError
from vmt_mm.utils.layout import list_files, nearest_id, read_ids

COMPOSED = "café/straße"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "a folder, ünï"


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _ids(folder, *suffixes):
    return list(list_files(folder, suffixes or (".png",)).files)


def test_unicode_forms_of_a_name_are_one_id(folder):
    assert COMPOSED != DECOMPOSED
    _touch(folder, f"{DECOMPOSED}.png")
    assert _ids(folder) == [COMPOSED]
    (folder / "ids.txt").write_text(f"{DECOMPOSED}\n", encoding="utf-8")
    assert read_ids(folder / "ids.txt") == [COMPOSED]
    (folder / "ids.txt").write_text(f"{DECOMPOSED}\n{COMPOSED}\n", encoding="utf-8")
    with pytest.raises(InputError, match="'café/straße' is listed twice"):
        read_ids(folder / "ids.txt")


@pytest.mark.parametrize("names", [(f"{DECOMPOSED}.png", f"{COMPOSED}.png"), ("a.png", "a.PNG")])
def test_two_files_of_one_id_are_both_named(folder, names):
    _touch(folder, *names)
    with pytest.raises(InputError, match="have the same id") as caught:
        _ids(folder)
    assert all(str(folder / name) in str(caught.value) for name in names)


def test_case_counts_in_ids_and_not_in_endings(folder):
    _touch(folder, "A.PNG", "b.Png", "c.jpg")
    assert _ids(folder) == ["A", "b"]
    assert _ids(folder, ".JPG") == ["c"]
    assert nearest_id("a", ["A", "ab"]) == ", the nearest id is 'A'"
    assert nearest_id("xyz", ["A", "ab"]) == ""
    assert nearest_id("10_x", ["1", "10", "0"]) == ", the nearest id is '10'"


def test_the_longest_ending_is_taken_off(folder):
    _touch(folder, "a_mask.png", "b.c.png", "s/_mask.png", "_mask.png")
    assert _ids(folder, "_MASK.png") == ["a"]
    assert _ids(folder, ".png", "_mask.png") == ["a", "b.c"]
    assert _ids(folder) == ["_mask", "a_mask", "b.c", "s/_mask"]


def test_hidden_files_are_left_out(folder):
    kept = ("a.png", "deep/er/b.png")
    _touch(folder, *kept, "._a.png", ".git/c.png", "__MACOSX/a.png", "Thumbs.db", "@eaDir/a.png")
    _touch(folder, ".ipynb_checkpoints/a.png", "x/.d/e.png", "a.png~", "old~/a.png", "desktop.ini")
    listing = list_files(folder, (".png",))
    assert list(listing.files) == ["a", "deep/er/b"]
    assert listing.others == []


def test_links_are_followed(folder, tmp_path):
    _touch(tmp_path / "elsewhere", "1.png", "deep/2.png")
    folder.mkdir()
    (folder / "s").symlink_to("../elsewhere", target_is_directory=True)
    (folder / "one.png").symlink_to(tmp_path / "elsewhere/1.png")
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert _ids(folder) == ["one", "s/1", "s/deep/2"]
    assert _ids(tmp_path / "link") == ["one", "s/1", "s/deep/2"]


def test_a_link_that_leads_nowhere_is_not_overlooked(folder):
    folder.mkdir()
    (folder / "a.png").symlink_to("gone.png")
    assert _ids(folder) == ["a"]  # an error follows when it is read
    (folder / "scene").symlink_to("gone", target_is_directory=True)
    with pytest.raises(InputError, match="scene: broken symbolic link"):
        _ids(folder)


def test_other_entries_than_files_are_left_out(folder):
    _touch(folder, "a.png")
    os.mkfifo(folder / "c.png")  # reading it would block forever
    assert _ids(folder) == ["a"]
    assert _ids(folder, "_mask.png", ".npy") == []
    assert _ids(folder / "no such") == []


def test_a_folder_that_may_not_be_read_is_an_error(folder, monkeypatch):
    _touch(folder, "a.png", "locked/b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"locked: the folder cannot be read \(Permission denied"):
        _ids(folder)


def test_files_of_no_image_are_named(folder):
    images = ["0", "1", "2", "Room"]
    _touch(folder, "0.png", "1.png", "notes.txt", "README", "0.json")
    assert list_files(folder, (".png",)).unused(images) is None
    _touch(folder, "2_mask.png")
    message = list_files(folder, (".png",)).unused(images)
    assert message.startswith(f"{folder}: 1 file(s) do not belong to an image")
    assert f"{str(folder / '2_mask.png')!r}, the nearest id is '2'; expected <id>.png" in message
    _touch(folder, "room.jpg")
    message = list_files(folder, ("_mask.png", ".npy")).unused(images)
    assert message.startswith(f"{folder}: 4 file(s)")  # 0.png, 1.png, room.jpg; 0 lacks a label
    assert "expected <id>_mask.png or <id>.npy" in message
    (folder / "0.png").unlink()
    assert "1.png'" in list_files(folder, ("_mask.png",)).unused(["2", "Room"])
