"""``~`` in the arguments of the tools."""

from pathlib import Path

import pytest

from vmt_mm.utils.console import ToolParser, expand_argument


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("~", "HOME"),
        ("~/a b/ü", "HOME/a b/ü"),
        ("--out=~/x", "--out=HOME/x"),
        ("data_root=~/d", "data_root=HOME/d"),
        ("model.backbone.pretrained=~/w.pth", "model.backbone.pretrained=HOME/w.pth"),
        ("a~", "a~"),
        ("a/~/b", "a/~/b"),
        ("--flag", "--flag"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("", ""),
    ],
)
def test_the_home_folder(monkeypatch, argument, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_argument(argument) == expected.replace("HOME", "/home/me")


def test_a_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = ToolParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path)
    monkeypatch.setattr("sys.argv", ["tool", "~/in", "--out=~/out"])
    args = parser.parse_args()
    assert (args.source, args.out) == (Path("/home/me/in"), Path("/home/me/out"))


def test_every_tool_takes_it():
    root = Path(__file__).parents[2]
    for folder in ("tools", "demo", "vmt_mm"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            assert "argparse.ArgumentParser(" not in text.replace("(argparse.ArgumentParser):", "")
