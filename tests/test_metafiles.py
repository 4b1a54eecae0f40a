"""The metafiles name existing configs and only numbers of docs/results.md."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]


@pytest.fixture(params=FILES)
def meta(request):
    return yaml.safe_load((ROOT / request.param).read_text()), (ROOT / request.param).parent


def test_every_folder_of_configs_has_one():
    folders = {path.parent for path in ROOT.glob("configs/*/*.py") if path.parent.name != "_base_"}
    assert {(ROOT / file).parent for file in FILES} == folders


def test_every_config_is_named_once_and_exists(meta):
    content, folder = meta
    configs = [model["Config"] for model in content["Models"]]
    assert sorted(ROOT / config for config in configs) == sorted(folder.glob("*.py"))
    assert [Path(config).stem for config in configs] == [m["Name"] for m in content["Models"]]
    assert {m["In Collection"] for m in content["Models"]} == {
        collection["Name"] for collection in content["Collections"]
    }


def test_results_are_those_of_the_results_page(meta):
    numbers = set(map(float, re.findall(r"\d+\.\d+", (ROOT / "docs/results.md").read_text())))
    for model in meta[0]["Models"]:
        assert "Weights" not in model
        for result in model.get("Results", ()):
            assert set(result["Metrics"].values()) <= numbers, model["Name"]
            assert result["Dataset"].startswith("rendered scenes")
