"""MTLoRA and MTLoRA+, CVPR 2024, https://arxiv.org/abs/2403.20320.

Notation: B images, L tokens, d channels of a block, T tasks, r rank, c the attention's output
before ``proj``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.peft.bottleneck import check_dropout, check_factor, check_positive
from vmt_mm.peft.lora import LoRALinear, merge_layers, wrap_linear
from vmt_mm.peft.method import Backbone, PEFTMethod, layers_by_block, parameter_groups
from vmt_mm.registry import PEFT_METHODS

_SHARED = ("qkv", "proj", "fc1", "fc2")
_OF_TASKS = ("proj", "fc1", "fc2")
_MODES = ("matrix", "matrixv2", "addition")


class MTLoRALinear(LoRALinear):
    """LoRA layer of a block with tails: one more output per task while factors are in place.

    The factors A_t and B_t are ``tail_down`` (T, r_t, in) and ``tail_up`` (T, out, r_t)::

        h_0 = W x_0 + b + s B A drop(x_0)        h_t = W x_0 + b + s_t B_t A_t x_t

    The frozen product is that of the shared stream x_0, so a task costs no product of full width.

    The input is (n, ..., in) and x_t = drop(x_0) if the layer ``starts`` the tails, else
    ((1 + T) n, ..., in). The output is ((1 + T) n, ..., out), the shared one first.
    """

    tail_down: nn.Parameter | None
    tail_up: nn.Parameter | None

    def __init__(
        self, *args: Any, starts: bool, mode: str, task_scale: float, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.starts, self.mode, self.task_scale = starts, mode, task_scale
        self.register_parameter("tail_down", None)
        self.register_parameter("tail_up", None)
        if mode == "addition":
            del self.lora_A, self.lora_B
            self.lora_norm = nn.LayerNorm(self.out_features)

    @property
    def streams(self) -> int:
        """Number of outputs per input of a layer that starts the tails: 1 + T."""
        return 1 if self.tail_down is None else 1 + len(self.tail_down)

    def reset(self) -> None:
        """Set every update to 0, and draw A."""
        if self.mode == "addition":
            nn.init.zeros_(self.lora_norm.weight)
            nn.init.zeros_(self.lora_norm.bias)
        else:
            super().reset()

    def forward(self, x: Tensor) -> Tensor:
        """Map the input of the shared stream, or of all, to the outputs of all."""
        assert self.tail_down is not None and self.tail_up is not None
        own: Sequence[Tensor] = ()
        if not self.starts:
            x, *own = x.reshape(self.streams, -1, *x.shape[1:]).unbind()
        shared = frozen = F.linear(x, self.weight, self.bias)
        dropped = F.dropout(x, self.dropout, self.training)
        if self.mode != "addition":
            update = F.linear(F.linear(dropped, self.lora_A), self.lora_B)
            shared = torch.add(frozen, update, alpha=self.scale)
        start = (shared if self.mode == "matrixv2" else frozen).reshape(-1, self.out_features)
        outputs = []
        for task, (down, up) in enumerate(zip(self.tail_down, self.tail_up, strict=True)):
            inner = F.linear(own[task] if own else dropped, down).reshape(-1, len(down))
            output = torch.addmm(start, inner, up.T, alpha=self.task_scale)
            outputs.append(output.view_as(frozen))
        if self.mode == "addition":
            shared = frozen + self.lora_norm(torch.stack(outputs).sum(0))
        return torch.cat([shared, *outputs])


@PEFT_METHODS.register_module()
class MTLoRA(PEFTMethod):
    """MTLoRA: shared low-rank updates in every block, and per-task ones in the last of a stage.

    The shared update s B A of qkv, proj, fc1 and fc2 is added to these layers. In the last block of
    a stage, every task t has a tail, with c, x, y and u of the shared stream (mode "matrix")::

        p_t  = W_p c + b + s_t B_t A_t c                y_t = x + p_t
        f1_t = W_1 LN2(y) + b + s_t B_t A_t LN2(y_t)    u_t = GELU(f1_t)
        f2_t = W_2 u + b + s_t B_t A_t u_t              o_t = y_t + f2_t

    o_t is the task's feature and never enters the shared stream, so one pass serves all tasks. On a
    plain ViT, tails are in the blocks that give maps. ``unfreeze`` defaults to the norms, patch
    embedding, tables of relative positions and patch merging, if the backbone has them. The paper's
    Swin has ``taps="merged"``. Config: ``peft=dict(type="MTLoRA", rank=64)``.

    Args:
        rank: rank r of the shared updates.
        task_rank: rank of the tasks' updates.
        scale: factor s of the shared updates, not divided by the rank.
        task_scale: factor s_t of the tasks' updates.
        dropout: dropout probability on the input of the shared updates, and on c, in [0, 1).
        mode: "matrix"; "matrixv2", in which the outputs of tasks include the shared update; or
            "addition", in which the layers of tails have no shared update, and their shared output
            is W x + b + LN(sum of the tasks' outputs), with a LayerNorm whose weight starts at 0.
        plus: MTLoRA+, with a shared update of patch merging, which then is frozen.
    """

    def __init__(
        self,
        rank: int = 64,
        task_rank: int = 4,
        scale: float = 4.0,
        task_scale: float = 4.0,
        dropout: float = 0.05,
        mode: str = "matrix",
        plus: bool = False,
    ) -> None:
        super().__init__()
        check_positive(self, rank=rank, task_rank=task_rank)
        check_factor(self, scale=scale, task_scale=task_scale)
        check_dropout(self, dropout)
        if mode not in _MODES:
            raise InputError(f"MTLoRA: `mode` must be in {[*_MODES]}, got {mode!r}")
        self.options: dict[str, Any] = dict(rank=rank, scale=scale, dropout=dropout)
        self.of_tails: dict[str, Any] = dict(mode=mode, task_scale=task_scale)
        self.task_rank, self.plus = task_rank, plus

    def attach(self, backbone: Backbone) -> None:
        """Wrap the layers, and create the factors of every task in the last block of a stage."""
        specs = backbone.block_specs
        self.couples_tasks = backbone.task_names if self.of_tails["mode"] == "addition" else ()
        stages = [spec.stage for spec in specs]
        self.blocks = nn.ModuleList(nn.ModuleDict() for _ in specs)
        self.layers: list[dict[str, str]] = [{} for _ in specs]
        for role in _SHARED:
            for index, names in enumerate(layers_by_block("MTLoRA", backbone, role)):
                last = stages[index + 1 : index + 2] != [stages[index]]
                for place, name in enumerate(names):
                    if not last or role not in _OF_TASKS:
                        wrap_linear(backbone, name, **self.options)
                        continue
                    tail = dict(self.of_tails, starts=role == "proj", **self.options)
                    wrapped = wrap_linear(backbone, name, MTLoRALinear, **tail)
                    self.layers[index][name] = key = f"{role}_{place}" if place else role
                    sizes = dict(A=(self.task_rank, wrapped.in_features))
                    sizes["B"] = (wrapped.out_features, self.task_rank)
                    for factor, size in sizes.items():
                        own = {t: nn.Parameter(torch.empty(size)) for t in backbone.task_names}
                        self.blocks[index][f"{key}_{factor}"] = nn.ParameterDict(own)
        merging = [n for n, _ in backbone.named_modules() if n.endswith(".reduction")]
        if self.plus and not merging:
            raise InputError("MTLoRA: `plus` needs patch merging, which this backbone lacks")
        for name in merging if self.plus else ():
            wrap_linear(backbone, name, **self.options)
        if self.unfreeze is None:
            found = parameter_groups(backbone).items()
            self.unfreeze = [g for g, own in found if own and not (self.plus and g == "reduction")]

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set every update to 0, which gives the features of the frozen backbone."""
        for module in backbone.modules():
            if isinstance(module, LoRALinear):
                module.reset()
                if hasattr(module, "lora_A"):
                    _draw(module.lora_A)
        for block in self.blocks:
            for key, of_tasks in block.items():
                for factor in of_tasks.values():
                    _draw(factor) if key.endswith("_A") else nn.init.zeros_(factor)

    def merge(self, backbone: Backbone, tasks: Sequence[str]) -> PEFTMethod:
        """Add the shared updates to the frozen weights, but in layers with tails."""
        merge_layers(backbone, keep={name for own in self.layers for name in own})
        return self

    def tails(self, index: int, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return the factors of the tasks, stacked, for the layers that have tails."""
        block: Any = self.blocks[index]
        return {
            f"{name}.{tail}": torch.stack([block[f"{key}_{factor}"][t] for t in tasks])
            for name, key in self.layers[index].items()
            for tail, factor in (("tail_down", "A"), ("tail_up", "B"))
        }


def _draw(factor: Tensor) -> None:
    """Draw A as the paper's code does."""
    nn.init.kaiming_uniform_(factor, a=5**0.5)
