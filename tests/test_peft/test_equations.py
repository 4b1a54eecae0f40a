"""The other methods equal naive transliterations of their papers' equations, in float64."""

import pytest
import torch
import torch.nn.functional as F
from methods import METHODS
from naive import build, check, layer_norm, run_stock, stock_swin

from vmt_mm.peft.lora import LoRALinear


def tensors(encoder, prefix):
    """State dict of one module, without its prefix."""
    state = encoder.state_dict()
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def relu(x):
    return torch.maximum(x, torch.zeros((), dtype=x.dtype))


def adapter(p, y):
    hidden = layer_norm(y, p["norm.weight"], p["norm.bias"]) @ p["down.weight"].T + p["down.bias"]
    return relu(hidden) @ p["up.weight"].T + p["up.bias"]


def low_rank_adapter(p, y):
    w_down = p["down.outer"] @ p["down.inner"]
    w_up = p["up.outer"] @ p["up.inner"]
    return relu(y @ w_down.T + p["down.bias"]) @ w_up.T + p["up.bias"]


@pytest.mark.parametrize(
    ("options", "function"),
    [
        (dict(type="Adapter", ratio=2), adapter),
        (dict(type="LowRankAdapter", ratio=4, rank=3), low_rank_adapter),
    ],
)
def test_parallel_adapters(options, function):
    encoder = build(**options, scale=0.7)

    def parallel(index, y):
        return 0.7 * function(tensors(encoder, f"peft.blocks.{index}."), y)

    check(
        encoder, lambda images, _: run_stock(stock_swin(encoder), images, parallel_to_mlp=parallel)
    )


@pytest.mark.parametrize("targets", [("q", "v"), ("k",), ("v", "fc2", "proj"), ("fc1", "q", "k")])
def test_lora_is_a_product_added_to_the_weight(targets):
    rank, alpha = 3, 2.0
    encoder = build(type="LoRA", rank=rank, alpha=alpha, targets=targets)
    parts = dict(q=0, k=1, v=2)
    layers = dict(proj="attn.w_msa.proj", fc1="ffn.layers.0.0", fc2="ffn.layers.1")
    merged = {}
    for block in (spec.name for spec in encoder.block_specs):
        for target in targets:
            name = f"{block}.{layers.get(target, 'attn.w_msa.qkv')}"
            layer = encoder.get_submodule(name)
            weight = merged.setdefault(f"{name}.weight", layer.weight.detach().clone())
            among = sorted(t for t in targets if t in parts)  # k, q, v: ordered below
            among.sort(key=parts.get)
            place = among.index(target) if target in parts else 0
            a = layer.lora_A[place * rank : (place + 1) * rank]
            width = len(weight) // 3 if target in parts else len(weight)
            b = layer.lora_B[place * width : (place + 1) * width]
            rows = parts.get(target, 0) * width
            weight[rows : rows + width] += (alpha / rank * b @ a).detach()
    check(encoder, lambda images, _: run_stock(stock_swin(encoder, merged), images))


@pytest.mark.parametrize("options", [dict(use_dora=True), dict(use_dora=True, use_rslora=True)])
def test_dora_scales_the_rows_of_the_updated_weight(options):
    encoder = build(type="LoRA", rank=4, alpha=3.0, targets=("q", "v", "fc1"), **options)
    scale, merged = 3.0 / (2 if "use_rslora" in options else 4), {}
    for block in (spec.name for spec in encoder.block_specs):
        for name, places in (("attn.w_msa.qkv", (0, 2)), ("ffn.layers.0.0", (0,))):
            layer = encoder.get_submodule(f"{block}.{name}")
            weight = layer.weight.detach().clone()
            width = len(layer.lora_B) // len(places)
            for number, place in enumerate(places):
                a = layer.lora_A[4 * number : 4 * (number + 1)]
                part = slice(width * number, width * (number + 1))
                rows = slice(width * place, width * (place + 1))
                updated = weight[rows] + scale * layer.lora_B[part] @ a
                norms = torch.sqrt((updated**2).sum(1, keepdim=True))
                weight[rows] = (layer.lora_magnitude[part][:, None] * updated / norms).detach()
            merged[f"{block}.{name}.weight"] = weight
    check(encoder, lambda images, _: run_stock(stock_swin(encoder, merged), images))


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_dora_take_the_norm_as_a_constant(bias):
    linear = torch.nn.Linear(6, 4, bias=bias).double()
    layer = LoRALinear(linear, rank=2, scale=0.7, dropout=0.0, dora=True).double()
    for parameter in (layer.lora_A, layer.lora_B, layer.lora_magnitude):
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    updated = linear.weight + 0.7 * layer.lora_B @ layer.lora_A
    norms = torch.sqrt((updated**2).sum(1)).detach()
    expected = x @ (layer.lora_magnitude[:, None] * updated / norms[:, None]).T
    expected = expected + linear.bias if bias else expected
    trained = (x, layer.lora_A, layer.lora_B, layer.lora_magnitude)
    results = [(y, *torch.autograd.grad(y.sin().sum(), trained)) for y in (layer(x), expected)]
    for own, theirs in zip(*results, strict=True):
        assert (own - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_hyperformer():
    embedding = 5
    encoder = build(type="Hyperformer", ratio=4, embedding=embedding)

    def adapt(task, place):
        v = encoder.peft.embeddings[task]

        def function(index, h):
            p = tensors(encoder, f"peft.generators.{index}.{place}.")
            made = p["weight"] @ v + p["bias"]
            d = h.shape[-1]
            k = d // 4
            sizes = [k * d, k, d * k, d, d, d]
            w_down, b_down, w_up, b_up, weight, bias = made.split(sizes)
            hidden = F.gelu(h @ w_down.reshape(k, d).T + b_down)
            return h + layer_norm(hidden @ w_up.reshape(d, k).T + b_up, weight, bias)

        return function

    def expected(images, task):
        stock = stock_swin(encoder)
        return run_stock(stock, images, adapt(task, "after_attn"), adapt(task, "after_mlp"))

    check(encoder, expected)


def factored(p, name, v, rank):
    outer = (p[f"{name}.outer.weight"] @ v + p[f"{name}.outer.bias"]).reshape(-1, rank)
    inner = (p[f"{name}.inner.weight"] @ v + p[f"{name}.inner.bias"]).reshape(rank, -1)
    return outer @ inner


def test_polyhistor():
    rank = 3
    encoder = build(type="Polyhistor", ratio=2, embedding=4, rank=rank)

    def expected(images, task):
        def parallel(index, y):
            p = tensors(encoder, f"peft.generators.{index}.")
            v = encoder.peft.embeddings[task]
            hidden = relu(y @ factored(p, "down", v, rank).T)
            return hidden @ factored(p, "up", v, rank).T

        return run_stock(stock_swin(encoder), images, parallel_to_mlp=parallel)

    check(encoder, expected)


def test_polyhistor_lite():
    rank = 2
    encoder = build(type="PolyhistorLite", ratio=4, embedding=4, rank=rank)

    def expected(images, task):
        templates, v = tensors(encoder, "peft.templates."), encoder.peft.embeddings[task]
        down, up = (factored(templates, name, v, rank) for name in ("down", "up"))

        def parallel(index, y):
            kernels = tensors(encoder, f"peft.kernels.{index}.")
            hidden = relu(y @ torch.kron(kernels["down"], down).T)
            return hidden @ torch.kron(kernels["up"], up).T

        return run_stock(stock_swin(encoder), images, parallel_to_mlp=parallel)

    check(encoder, expected)


@pytest.mark.parametrize("name", ["BitFit", "RelativeBias", "FullFineTuning"])
def test_a_copy_per_task_equals_a_model_per_task(name):
    encoder = build(type="PerTask", method=METHODS["swin"][name].peft)

    def expected(images, task):
        own = {k: v.detach() for k, v in encoder.peft.parameters_for(task).items()}
        return run_stock(stock_swin(encoder, own), images)

    check(encoder, expected)


def test_copies_of_an_adapter_are_adapters():
    encoder = build(type="PerTask", method=dict(type="Adapter", ratio=2))

    def expected(images, task):
        def parallel(index, y):
            copies = tensors(encoder, f"peft.copies.{task}.peft__method__blocks__{index}__")
            return adapter({k.replace("__", "."): v for k, v in copies.items()}, y)

        return run_stock(stock_swin(encoder), images, parallel_to_mlp=parallel)

    check(encoder, expected)
