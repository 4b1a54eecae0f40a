"""The timm backbone equals timm's models, whose parts all take part, and refuses what it cannot."""

import re
from functools import partial
from importlib import import_module

import pytest
import torch
from methods import Probe

from vmt_mm.errors import InputError
from vmt_mm.peft import PEFTMethod
from vmt_mm.peft.method import layer_names
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import LazyResize

timm = pytest.importorskip("timm")

TASKS = ["semseg", "normals"]
TAPS = (0, 1, 2, 4)
SMALL = dict(embed_dim=48, depth=5, num_heads=3)
#: Name in timm -> further arguments; all with random weights and few channels.
NAMES = {
    "vit_small_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": dict(img_size=224),
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_siglip_256.v2_webli": {},
    "vit_base_patch16_clip_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3": {},
    "eva02_small_patch14_224": {},
    "eva02_base_patch14_224": dict(global_pool="token"),
    "vit_pe_spatial_small_patch16_512": dict(img_size=224),
    "vit_pe_core_small_patch16_384": dict(img_size=224),
    "vit_small_patch16_rope_mixed_ape_224": {},
    "vit_base_patch16_sapiens2": dict(img_size=224, num_kv_heads=1),
    "vit_medium_patch16_reg4_gap_256": dict(qk_norm=True, scale_attn_norm=True),
}


def make_stock(name, **options):
    """timm's original, with random weights, so that a wrong use of any is visible."""
    options = {**SMALL, **NAMES.get(name, {}), **options}
    stock = timm.create_model(
        name, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True, **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return stock.eval()


def build(name="vit_small_patch16_224", stock=None, **options):
    defaults = dict(
        type="MultiTaskTimmViT",
        tasks=TASKS,
        model_name=name,
        out_indices=TAPS,
        allow_random_backbone=True,
        peft=dict(type="VMTAdapter"),
    )
    sizes = {**SMALL, **NAMES.get(name, {}), **options.pop("model_kwargs", {})}
    sizes = options.pop("model_kwargs_", sizes)  # replaces all of them
    backbone = MODELS.build({**defaults, **options, "model_kwargs": sizes})
    backbone.init_weights()
    if stock is not None:
        backbone.load_frozen(stock.state_dict(), "timm")
    return backbone.eval()


def expect(stock, images, taps=TAPS):
    return stock.forward_intermediates(images, list(taps), norm=True, intermediates_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_start_equals_timm(name):
    stock = make_stock(name)
    backbone = build(name, stock)
    native = stock.patch_embed.img_size
    for size in (native, (160, 160), (83, 150)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected, features = expect(stock, images), backbone(images, lazy=True)
        assert list(features) == TASKS
        for maps in features.values():
            for own, theirs, stride in zip(maps, expected, (4, 8, 16, 32), strict=True):
                assert (own.grid - theirs).norm() <= 1e-5 * theirs.norm()
                assert own.patch == stock.patch_embed.patch_size
                sides = [-(-side // stride) for side in size]
                assert own.tensor().shape == (1, SMALL["embed_dim"], *sides)


#: Modules of timm that have ViTs.
MODULES = ["vision_transformer", "eva", "deit", "beit", "naflexvit", "vitamin"]
MODULES += [f"vision_transformer_{kind}" for kind in ("hybrid", "relpos", "sam")]
#: No final norm, sub-LN, differential attention, registers without a class token.
FURTHER = [
    "vit_base_patch16_radio_v3",
    "beit3_base_patch16_224",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_medium_patch16_gap_256",
]
#: Other classes, patch embeddings or blocks; relative positions; norms after attention and MLP.
REFUSED = [
    "beitv2_base_patch16_224",
    "vit_relpos_small_patch16_224",
    "samvit_base_patch16",
    "naflexvit_base_patch16_gap",
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_rpn_224",
    "eva02_enormous_patch14_clip_224",
]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([*FURTHER, *REFUSED], id="one of each kind"),
        pytest.param([], id="all", marks=pytest.mark.every_backbone),
    ],
)
def test_every_name_of_timm_equals_it_or_is_refused(names):
    of_modules = (name for module in MODULES for name in timm.list_models(module=module))
    images, refused = torch.randn(1, 3, 60, 83), []
    for name in names or of_modules:
        sizes = dict(num_kv_heads=1) if "sapiens2" in name else {}
        try:
            backbone = build(name, model_kwargs=sizes, peft=None)
        except InputError as error:
            kinds = "must be a VisionTransformer or Eva of PatchEmbed and Block or EvaBlock"
            # a few convolutions before the blocks have a fixed width
            assert re.search(f"{kinds}|cannot build .* must match embed dim", str(error)), error
            refused.append(name)
            continue
        stock = make_stock(name, **sizes)
        backbone.load_frozen(stock.state_dict(), name)
        with torch.no_grad():
            maps = backbone(images, lazy=True)["semseg"]
            for own, theirs in zip(maps, expect(stock, images), strict=True):
                assert (own.grid - theirs).norm() <= 1e-5 * theirs.norm(), name
    assert set(REFUSED) <= set(refused)
    assert not {*FURTHER, *NAMES} & set(refused)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_224"])
@pytest.mark.parametrize("size", [(224, 224), (500, 83), (20, 300)])
def test_exported_positions_equal_timms(name, size, monkeypatch):
    backbone, images = build(name, make_stock(name)), torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = backbone(images)["semseg"]
        for module in ("timm_vit", "peft_backbone"):
            monkeypatch.setattr(f"vmt_mm.models.backbones.{module}.is_exporting", lambda: True)
        for own, theirs in zip(backbone(images)["semseg"], expected, strict=True):
            assert (own - theirs).norm() <= 1e-5 * theirs.norm()


def test_learnt_rotary_frequencies_with_activation_checkpointing():
    """All blocks use one parameter, from outside the function that is recomputed."""
    backbone = build("vit_small_patch16_rope_mixed_ape_224", peft=dict(type="FullFineTuning"))
    images, gradients = torch.randn(2, 3, 32, 48), []
    for backbone.with_cp in (False, True):
        backbone.zero_grad()
        sum(level.sin().sum() for level in backbone.train()(images)["semseg"]).backward()
        gradients.append({name: p.grad for name, p in backbone.named_parameters()})
    assert gradients[0]["rope.freqs"].abs().max() > 0
    assert all(torch.equal(gradient, gradients[1][n]) for n, gradient in gradients[0].items())


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "eva02_base_patch14_224"])
def test_gradients_equal_timms(name):
    stock = make_stock(name).double()
    backbone = build(name, stock, peft=dict(type="FullFineTuning")).double()
    images = torch.randn(2, 3, 60, 83, dtype=torch.float64)
    sum(level.sin().sum() for level in expect(stock, images)).backward()
    sum(level.grid.sin().sum() for level in backbone(images, lazy=True)["semseg"]).backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    for key, parameter in stock.named_parameters():
        own = gradients.pop(key)
        assert (own - parameter.grad).norm() <= 1e-9 * parameter.grad.norm(), key
    assert gradients == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_with_a_role_is_called(name):
    """timm's EvaAttention would use the weight of `qkv` itself, and a wrapped layer do nothing."""
    backbone = build(name)
    roles = {"qkv", "proj", "fc1", "fc2", "norm1", "norm2"}
    assert all(block.layers.keys() == roles for block in backbone.block_specs)
    calls = {name: 0 for role in roles for name in layer_names("test", backbone, role)}

    def count(name, *_):
        calls[name] += 1

    for name in calls:
        backbone.get_submodule(name).register_forward_hook(partial(count, name))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 32, 32))
    assert set(calls.values()) == {1}


class Norms(PEFTMethod):
    """Trains the norms of one role."""

    def __init__(self, role):
        super().__init__()
        self.role = role

    def attach(self, encoder):
        for name in layer_names("Norms", encoder, self.role):
            encoder.get_submodule(name).requires_grad_(True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["q", "k", "v", "proj", "fc1", "fc2", "norm1", "norm2"])
def test_a_method_on_every_role_changes_the_output(name, role):
    norm = role.startswith("norm")
    peft = dict(type=Norms, role=role) if norm else dict(type="LoRA", targets=[role], rank=2)
    stock, images = make_stock(name), torch.randn(1, 3, 48, 48)
    backbone = build(name, stock, peft=peft)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    before = backbone(images)["semseg"]
    for parameter in trained:
        parameter.data += 0.1 * torch.randn_like(parameter)
    after = backbone(images)["semseg"]
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    sum(level.square().sum() for level in after).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in trained)
    leaves = len(
        layer_names("test", backbone, {"q": "qkv", "k": "qkv", "v": "qkv"}.get(role, role))
    )
    separate = role in "qkv" and leaves == 3 * SMALL["depth"]
    count = leaves // 3 if separate else leaves
    assert len(trained) == 2 * count or norm


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_methods_act_after_layer_scale(name):
    stock = make_stock(name).double()
    backbone = build(name, stock, peft=dict(type=Probe)).double()
    images, probe, levels = torch.randn(1, 3, 64, 64, dtype=torch.float64), Probe(), []
    with torch.no_grad():
        x = stock._pos_embed(stock.patch_embed(images))
        x, *rope = x if isinstance(x, tuple) else (x,)
        for index, block in enumerate(stock.blocks):
            gamma = [getattr(block, f"gamma_{n}", None) for n in (1, 2)]
            if gamma[0] is None:
                gamma = [block.ls1.gamma, block.ls2.gamma]
            out = gamma[0] * block.attn(block.norm1(x), *rope)
            y = x + probe.after_attn(index, out, None)
            mlp = gamma[1] * block.mlp(block.norm2(y))
            x = y + probe.after_mlp(index, mlp, None) + y.sin()
            if index in TAPS:
                tokens = stock.norm(x)[:, stock.num_prefix_tokens :]
                levels.append(tokens.transpose(1, 2))
        for own, tokens in zip(backbone(images, lazy=True)["normals"], levels, strict=True):
            assert isinstance(own, LazyResize)
            torch.testing.assert_close(own.grid.flatten(2), tokens)


@pytest.mark.parametrize("name", ["eva02_small_patch14_224", "vit_medium_patch16_reg4_gap_256"])
def test_without_pooling_the_norm_of_averages_is_the_final_norm(name):
    stock, images = make_stock(name), torch.randn(1, 3, 60, 83)
    backbone = build(name, stock, model_kwargs=dict(global_pool=""))
    with torch.no_grad():
        maps = backbone(images, lazy=True)["semseg"]
        for own, theirs in zip(maps, expect(stock, images), strict=True):
            normalised = stock.fc_norm(theirs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            torch.testing.assert_close(own.grid, normalised, rtol=1e-4, atol=1e-5)


def test_blocks_after_the_last_index_are_left_out():
    stock, images = make_stock("vit_small_patch16_224"), torch.randn(1, 3, 32, 32)
    backbone = build(stock=stock, out_indices=(0, 1, 2, -2))
    assert len(backbone.blocks) == 4
    with torch.no_grad():
        for own, theirs in zip(
            backbone(images, lazy=True)["semseg"], expect(stock, images, (0, 1, 2, 3)), strict=True
        ):
            torch.testing.assert_close(own.grid, theirs)


def test_a_file_of_timm_loads_strictly(tmp_path):
    """Pooling and classifier are dropped, and positions of another grid are interpolated."""
    name = "vit_base_patch16_siglip_224"
    stock = timm.create_model(name, num_classes=7, **SMALL)
    state = {**stock.state_dict(), "mask_token": torch.zeros(1, 1, 48)}
    torch.save(dict(model=state), tmp_path / "timm.pth")
    options = dict(pretrained=str(tmp_path / "timm.pth"), allow_random_backbone=False)
    own = build(name, **options).state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith("peft."))
    assert {"attn_pool.latent", "head.weight"} <= state.keys() - own.keys()
    larger = build(name, **options, model_kwargs=dict(img_size=320))
    assert larger.resized_keys == {"pos_embed"}
    assert larger.pos_embed.shape == (1, 400, 48)
    with pytest.raises(InputError, match=r"does not fit the backbone \(timm keys\).*cls_token"):
        build("vit_small_patch16_224", **options)


@pytest.mark.parametrize("name", ["eva02_base_patch14_224", "vit_small_patch16_dinov3"])
def test_a_file_with_separate_or_fused_projections_is_found(name, tmp_path):
    stock = make_stock(name)
    state = {f"module.{key}": value for key, value in stock.state_dict().items()}
    torch.save(state, tmp_path / "timm.pth")
    backbone = build(name, pretrained=str(tmp_path / "timm.pth"))
    own = backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in stock.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="vit_small_patch16_dinov5"), "timm has no model .*'vit_small_patch16_dinov3'"),
        (dict(name="hf-hub:timm/vit"), "timm has no model 'hf-hub:timm/vit'"),
        (
            dict(name="vit_small_patch16_224", model_kwargs=dict(nonsense=1)),
            "cannot build .*argument 'nonsense'",
        ),
        (
            dict(name="vit_small_patch16_224", model_kwargs=dict(num_heads=5)),
            "cannot build .* divisible by num_heads",
        ),
        (dict(name="deit_tiny_distilled_patch16_224"), "but it is VisionTransformerDistilled"),
        (
            dict(name="eva02_enormous_patch14_clip_224"),
            "must be .* of PatchEmbed and Block or EvaBlock, but it is .* EvaBlockPostNorm",
        ),
        (dict(name="vit_small_patch16_224.x"), r"cannot build .*: Invalid pretrained tag \(x\)"),
        (dict(name="swin_tiny_patch4_window7_224"), "must be a VisionTransformer or Eva"),
        (dict(model_kwargs=dict(num_classes=3)), "unknown argument 'num_classes'"),
        (dict(model_kwargs=dict(pretrained=True)), "set 'pretrained' in the backbone, not in mod"),
        (dict(model_kwargs=dict(out_indices=(1,))), "set 'out_indices' in the backbone, not in"),
        (dict(model_kwargs=dict(in_chans=1)), "unknown argument 'in_chans'; set `in_channels`"),
        (dict(model_kwargs_="abc"), "`model_kwargs` must be a dict, got 'abc'"),
        (dict(model_kwargs_=[]), r"`model_kwargs` must be a dict, got \[\]"),
        (dict(in_channels=0), "`in_channels` must be > 0, got 0"),
        (dict(in_channels="3"), "`in_channels` must be > 0, got '3'"),
        (dict(model_kwargs=dict(depth=0), out_indices=None), "4 increasing indices of the 0 bl"),
        (dict(model_kwargs=dict(embed_dim=0)), "cannot build 'vit_small_patch16_224': 0.0 cannot"),
        (dict(model_kwargs=dict(num_heads=0)), "cannot build 'vit_small_patch16_224': integer "),
        *(
            (
                dict(name=name, model_kwargs=dict(num_heads=8)),
                "channels per head divisible by 4, got 6; set num_heads",
            )
            for name in ("vit_small_patch16_dinov3", "eva02_base_patch14_224")
        ),
        (dict(out_indices=None), r"must be 4 increasing indices of the 5 blocks, got None"),
        (dict(out_indices=(0, 1, 2, 3.0)), "must be 4 increasing indices of the 5 blocks, got"),
        (dict(out_indices=(0, 1, 2, 5)), "must be 4 increasing indices of the 5 blocks, got"),
        (dict(peft=dict(type="RelativeBias")), "needs 'relative_position_table' in every block"),
        (
            dict(
                name="vit_small_patch16_rope_mixed_ape_224",
                peft=dict(type="PerTask", method=dict(type="FullFineTuning")),
            ),
            "PerTask replaces 'rope.freqs', but none of the parts",
        ),
    ],
)
def test_wrong_settings_are_one_message(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_224", dict(pos_drop_rate=0.5)),
        ("vit_small_patch16_dinov3", dict(pos_drop_rate=0.5, rope_jitter_coords=2.0)),
    ],
)
@pytest.mark.parametrize("peft", ["DecodersOnly", "FullFineTuning"])
def test_randomness_of_positions_is_only_in_a_trained_embedding(name, options, peft):
    backbone = build(name, model_kwargs=options, peft=dict(type=peft)).train()
    images = torch.randn(1, 3, 32, 32)
    one, other = (backbone(images)["semseg"][0] for _ in range(2))
    assert torch.equal(one, other) == (peft == "DecodersOnly")
    backbone.eval()
    assert torch.equal(backbone(images)["semseg"][0], backbone(images)["semseg"][0])


def test_images_of_one_channel():
    assert build(in_channels=1)(torch.randn(1, 1, 32, 32))["semseg"][0].shape == (1, 48, 8, 8)
    with pytest.raises(InputError, match=r"1 channel\(s\), but in_channels=3"):
        build()(torch.randn(1, 1, 32, 32))


def test_without_timm_the_message_says_so(monkeypatch):
    module = import_module("vmt_mm.models.backbones.timm_weights")

    def fail(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", fail)
    with pytest.raises(InputError, match="needs timm, install it .*: No module named 'timm'"):
        build()
