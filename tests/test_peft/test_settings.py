"""Wrong settings of methods are one error message when the model is built."""

import pytest
import torch
from methods import TASKS
from safetensors.torch import save_file

from vmt_mm.errors import InputError
from vmt_mm.peft import PEFTMethod
from vmt_mm.registry import MODELS, PEFT_METHODS


def build(arch="nano", **peft):
    config = dict(
        type="MultiTaskSwin", arch=arch, tasks=list(TASKS), allow_random_backbone=True, peft=peft
    )
    return MODELS.build(config)


def per_task(**options):
    return dict(type="PerTask", method=dict(type="LoRA"), **options)


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        (dict(type="VMTAdapter", ratio=3), "VMTAdapter: `ratio` must be a positive integer"),
        (dict(type="VMTAdapterLite", m=3, ratio=1), "m=3 for d=20, k=20"),
        (dict(type="VMTAdapterLite", m=5, ratio=5), "m=5 for d=20, k=4"),
        (dict(type="VMTAdapterLite", m=0, ratio=1), "`m` must be a positive integer, got 0"),
        (dict(type="VMTAdapterLite", m=2, gate=2), "Lite: `gate` must be in [0, 1], got 2"),
        (dict(type="Adapter", ratio=0), "Adapter: `ratio` must be a positive"),
        (dict(type="Adapter", ratio=40), "got 40 for a block of 20 channels"),
        (dict(type="LowRankAdapter", ratio=2, rank=0), "LowRankAdapter: `rank` must be a positive"),
        (dict(type="LowRankAdapter", ratio=3), "LowRankAdapter: `ratio` must be a positive"),
        (dict(type="LoRA", rank=0), "LoRA: `rank` must be a positive integer, got 0"),
        (dict(type="LoRA", rank=1.5), "LoRA: `rank` must be a positive integer, got 1.5"),
        (dict(type="LoRA", targets=("q", "fc3")), "`targets` must be a non-empty list"),
        (dict(type="LoRA", targets="q"), "`targets` must be a non-empty list"),
        (dict(type="LoRA", targets=5), "`targets` must be a non-empty list"),
        (dict(type="VMTAdapter", gate="a"), "VMTAdapter: `gate` must be a finite number, got 'a'"),
        (dict(type="LoRA", alpha="4"), "LoRA: `alpha` must be a finite number or None, got '4'"),
        (dict(type="LoRA", alpha=True), "LoRA: `alpha` must be a finite number or None, got True"),
        (dict(type="LoRA", alpha=0), "LoRA: `alpha` must not be 0; nothing would train"),
        (dict(type="MTLoRA", scale=0.0), "MTLoRA: `scale` must not be 0"),
        (dict(type="MTLoRA", task_scale=0), "MTLoRA: `task_scale` must not be 0"),
        (dict(type="Adapter", scale=0), "Adapter: `scale` must not be 0"),
        (dict(type="LoRA", unfreeze=["norm", "norm"]), "must be a list of distinct names from "),
        (dict(type="LoRA", use_dora="no"), "LoRA: `use_dora` must be True or False, got 'no'"),
        (dict(type="MTLoRA", scale="4"), "MTLoRA: `scale` must be a finite number, got '4'"),
        (dict(type="MTLoRA", task_scale=float("nan")), "`task_scale` must be a finite number"),
        (dict(type="MTLoRA", plus=1), "MTLoRA: `plus` must be True or False, got 1"),
        (dict(type="Adapter", scale=None), "Adapter: `scale` must be a finite number, got None"),
        (
            dict(type="LoRA", unfreeze=True),
            "`unfreeze` must be a list of distinct names from ['norm', ",
        ),
        (
            dict(type="LoRA", unfreeze=[["norm"]]),
            "`unfreeze` must be a list of distinct names from ['norm', ",
        ),
        (per_task(unfreeze=""), "`unfreeze` must be a list of distinct names from ['norm', "),
        (dict(type=["LoRA"]), "peft: unknown type ['LoRA']"),
        (dict(type="LoRA", targets=[["q"]]), "`targets` must be a non-empty list"),
        (dict(type="PerTask", method="LoRA"), "`peft` must be a dict such as dict(type="),
        (dict(type="LoRA", targets=("q", "q")), "`targets` must be a non-empty list"),
        (dict(type="LoRA", targets=()), "`targets` must be a non-empty list"),
        (dict(type="LoRA", dropout=1), "LoRA: `dropout` must be in [0, 1), got 1"),
        (dict(type="Hyperformer", ratio=3), "Hyperformer: `ratio` must be a positive"),
        (dict(type="Hyperformer", embedding=0), "Hyperformer: `embedding` must be a positive"),
        (dict(type="Polyhistor", ratio=4, rank=0), "Polyhistor: `rank` must be a positive"),
        (dict(type="PolyhistorLite", embedding=-1), "PolyhistorLite: `embedding` must be"),
        (dict(type="PolyhistorLite", ratio=3), "PolyhistorLite: `ratio` must be a positive"),
        (
            dict(type="PerTask", method=dict(type="VMTAdapter")),
            "PerTask: VMTAdapter already has separate features per task",
        ),
        (
            dict(type="PerTask", method=dict(type="Hyperformer", ratio=4)),
            "PerTask: Hyperformer already has separate features per task",
        ),
        (
            dict(type="PerTask", method=dict(type="DecodersOnly")),
            "PerTask: DecodersOnly has no trainable parameters to copy",
        ),
        (dict(type="PerTask", method=dict(type="Lora")), "peft: unknown type 'Lora'"),
        (dict(type="Mona", hidden=0), "Mona: `hidden` must be a positive integer, got 0"),
        (dict(type="Mona", dropout=1), "Mona: `dropout` must be in [0, 1), got 1"),
        (dict(type="VMTMona", gate=2), "VMTMona: `gate` must be in [0, 1], got 2"),
        (per_task(from_stage=4), "PerTask: `from_stage` must be 0, 1, 2 or 3, got 4"),
        (per_task(from_stage="3"), "PerTask: `from_stage` must be 0, 1, 2 or 3, got '3'"),
        (per_task(tasks_from_stage=3), "`tasks_from_stage` needs `groups`, and must be from 0 to"),
        (
            per_task(from_stage=2, tasks_from_stage=1, groups=dict(all=list(TASKS))),
            "`tasks_from_stage` needs `groups`, and must be from 2 to 3, got 1",
        ),
        (per_task(groups=dict(all=["semseg"])), "with each task of ['semseg', 'normals'] once"),
        (per_task(groups=dict(a=[*TASKS], b=["normals"])), "PerTask: `groups` must map names"),
        (per_task(groups=dict(normals=list(TASKS))), "PerTask: `groups` must map names"),
        (per_task(groups=dict(items=list(TASKS))), "PerTask: `groups` must map names (identifiers"),
        (per_task(groups={"": list(TASKS)}), "PerTask: `groups` must map names (identifiers"),
        (per_task(groups=dict(a=list(TASKS)), tasks_from_stage=3.0), "from 0 to 3, got 3.0"),
        (per_task(groups=dict(a="semseg", b="normals")), "PerTask: `groups` must map names"),
        (per_task(groups=[["semseg"], ["normals"]]), "PerTask: `groups` must map names"),
    ],
)
def test_wrong_settings_are_one_message(peft, message):
    with pytest.raises(InputError) as error:
        build(**peft)
    assert message in str(error.value)


class _WithoutTables(PEFTMethod):
    """Simulates a backbone whose blocks lack a role."""

    def attach(self, encoder):
        for block in encoder.block_specs:
            del block.layers["relative_position_table"]
        PEFT_METHODS.get("RelativeBias")().attach(encoder)


def test_a_role_that_a_backbone_lacks_is_named():
    with pytest.raises(InputError, match="RelativeBias needs 'relative_position_table' in every"):
        build(type=_WithoutTables)


class _Astray(PEFTMethod):
    """A method that replaces a parameter that no part of the backbone reads."""

    per_task_forward = True

    def attach(self, encoder):
        self.stray = torch.nn.Parameter(torch.zeros(()))

    def parameters_for(self, task):
        return {"peft.stray": self.stray}


def test_a_parameter_without_a_place_is_an_error_at_once():
    with pytest.raises(InputError, match="_Astray replaces 'peft.stray', but none of the parts"):
        build(type=_Astray)


class _Missing(_Astray):
    """A method that, for its second task, replaces a parameter that the backbone does not have."""

    def parameters_for(self, task):
        return {} if task == next(iter(TASKS)) else {"stages.0.blocks.0.nothing": self.stray}


def test_a_missing_parameter_is_an_error_at_once():
    with pytest.raises(
        InputError, match="replaces 'stages.0.blocks.0.nothing', but none of the parts"
    ):
        build(type=_Missing)


def test_a_method_is_set_up_before_anything_is_loaded():
    """Loading weights without `init_weights` also starts at the frozen features."""
    for config in (dict(type="LoRA"), dict(type="PerTask", method=dict(type="LoRA"))):
        values = dict(build(**config).named_parameters())
        outer = [value for name, value in values.items() if name.endswith("lora_B")]
        inner = [value for name, value in values.items() if name.endswith("lora_A")]
        assert all(value.abs().max() == 0 for value in outer)
        assert all(0 < value.abs().max() < 1 for value in inner)


def test_a_task_with_a_dot_in_its_name_is_refused():
    with pytest.raises(InputError, match="must not contain a dot, got \\['a.b'\\]"):
        MODELS.build(dict(type="MultiTaskSwin", arch="nano", tasks=["a.b"]))


@pytest.mark.parametrize(
    "peft",
    [
        dict(type="LoRA", targets=("q", "fc1")),
        dict(type="PerTask", method=dict(type="BitFit")),
        dict(type="PerTask", method=dict(type="LoRA")),
    ],
)
def test_pretrained_weights_reach_wrapped_layers_and_copies(peft, tmp_path):
    """Only keys that the method adds may be missing from the file."""
    source = build(type="DecodersOnly")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    state = {k: v.contiguous() for k, v in source.state_dict().items()}
    save_file(state, tmp_path / "swin.safetensors")
    config = dict(
        type="MultiTaskSwin", arch="nano", tasks=list(TASKS), peft=peft,
        pretrained=str(tmp_path / "swin.safetensors"),
    )  # fmt: skip
    encoder = MODELS.build(config)
    encoder.init_weights()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        own, expected = encoder.eval()(images), source.eval()(images)
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(own[task], expected[task], strict=True))
    save_file(
        {k: v for k, v in state.items() if "qkv.bias" not in k}, tmp_path / "swin.safetensors"
    )
    with pytest.raises(InputError, match="8 missing key"):
        MODELS.build(config).init_weights()
