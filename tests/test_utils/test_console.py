"""``~`` and dicts in the arguments of the tools."""

from pathlib import Path

import pytest
from mmengine.config import DictAction

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


@pytest.mark.parametrize("value", ["{'x':1}", "{}", "{'m':'s','c':(32,32),'d':(1,1)}"])
def test_a_dict_is_refused(value, capsys):
    parser = ToolParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    with pytest.raises(SystemExit):
        parser.parse_args(["--cfg-options", "b=1", f"a.b={value}"])
    message = "a.b: the value cannot be a dict; set its keys, as in a.b.KEY="
    assert message in capsys.readouterr().err
    assert parser.parse_args(["--cfg-options", "a.b=1"]).cfg_options == {"a.b": 1}


def test_every_tool_takes_it():
    root = Path(__file__).parents[2]
    for folder in ("tools", "demo", "vmt_mm"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            assert "argparse.ArgumentParser(" not in text.replace("(argparse.ArgumentParser):", "")
