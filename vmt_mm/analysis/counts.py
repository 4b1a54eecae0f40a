"""Count parameters of models, compared with the paper's numbers, and operations.

Operations are those of matrix products and convolutions; a multiply-add counts as 2.
Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Tables 2 and 3.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.table import Table
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from vmt_mm.analysis.experiment import Experiment
from vmt_mm.analysis.tables import render_table, table_of
from vmt_mm.checkpoints.keys import PEFT
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.peft import PEFTMethod
from vmt_mm.registry import HOOKS
from vmt_mm.utils.compat import CPU_ATTENTION_FLOPS
from vmt_mm.utils.modules import unwrap

#: Row of Tables 2 and 3 -> printed millions of trainable parameters, (backbone, with decoders):
#: Swin-T, four tasks of PASCAL-Context, All-MLP decoders. (2.21 + 2.55 is 4.76, not 4.56.)
PAPER_TABLE: dict[str, tuple[float, float]] = {
    "single_task_full": (110.07, 112.62), "multi_task_full": (27.51, 30.06),
    "decoders": (0.00, 2.55), "hyperformer": (72.77, 75.32),
    "polyhistor": (6.41, 8.96), "polyhistor-lite": (0.41, 2.96),
    "multiple_bitfit": (0.30, 2.85), "shared_bitfit": (0.08, 2.63),
    "multiple_relative_bias": (0.09, 2.64), "shared_relative_bias": (0.03, 2.58),
    "multiple_lora": (0.32, 2.87), "shared_lora": (0.13, 2.68),
    "multiple_adapter": (8.69, 11.24), "shared_adapter": (2.17, 4.71),
    "multiple_low_rank_adapter": (0.34, 2.89), "shared_low_rank_adapter": (0.10, 2.62),
    "vmt_rho1": (4.36, 6.91), "vmt_rho2": (2.21, 4.56), "vmt": (1.13, 3.68),
    "vmt_rho8": (0.59, 3.14), "vmt-lite": (0.40, 2.95),
    "vmt-lite_m6": (0.22, 2.77), "vmt-lite_m12": (0.15, 2.70),
}  # fmt: skip
#: Suffix of the names of these rows' configs.
PAPER_SETTING = "_swin-t_pascal"
_OUTPUT_NORM = re.compile(r"^norm\d\.")


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count (trainable, all) parameters of 'encoder', 'output norms', 'head <task>' and 'sum'.

    'encoder' is the backbone with the PEFT method. It excludes the output norms, which pretrained
    checkpoints lack, unless the method counts those that it trains as its own.
    """
    method = getattr(model.backbone, "peft", None) or PEFTMethod()
    parts: dict[str, list[nn.Parameter]] = {"encoder": [], "output norms": []}
    for name, parameter in model.backbone.named_parameters():
        if name.startswith(PEFT):
            name = method.original_name(name.removeprefix(PEFT))
        own = method.counts_output_norms and parameter.requires_grad
        part = "output norms" if _OUTPUT_NORM.match(name) and not own else "encoder"
        parts[part].append(parameter)
    parts |= {f"head {task}": list(head.parameters()) for task, head in model.heads.items()}
    parts["sum"] = [parameter for own in parts.values() for parameter in own]
    return {
        part: (sum(p.numel() for p in own if p.requires_grad), sum(p.numel() for p in own))
        for part, own in parts.items()
    }


class WithoutValues(TorchFunctionMode):
    """Context in which models are built on the meta device: with shapes, without values.

    Only ``torch.empty``, which allocates weights, is redirected. Layers may read other tensors
    during construction, such as the rates of stochastic depth.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function; put empty tensors on the meta device."""
        own = dict(device="meta") if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **own})


def summarize_experiment(experiment: Experiment) -> dict[str, Any]:
    """Count parameters of a config's models; 'encoder': one backbone without output norms."""
    with WithoutValues():
        models, plain = experiment.build_models(), experiment.build_plain_encoder()
    counts = [count_parameters(model) for model in models]
    parts = ("encoder", "output norms", "sum")
    encoder, norms, total = (sum(count[part][0] for count in counts) for part in parts)
    one = sum(p.numel() for n, p in plain.named_parameters() if not _OUTPUT_NORM.match(n))
    tasks = sum(len(model.tasks) for model in models)
    summary = dict(
        config=experiment.path, encoder_trainable=encoder, output_norms=norms,
        decoder_trainable=total - encoder - norms, total_trainable=total,
        frozen=sum(count["sum"][1] for count in counts) - total, encoder=one, tasks=tasks,
        models=len(models), passes=find_passes(models), share_of_one_encoder=encoder / one,
        share_of_an_encoder_per_task=encoder / (one * tasks),
    )  # fmt: skip
    row = experiment.name.replace(PAPER_SETTING, "")
    if printed := PAPER_TABLE.get(row if row != experiment.name else ""):
        summary["paper_millions"] = dict(zip(("encoder", "all"), printed, strict=True))
    return summary


def find_passes(models: Sequence[MultiTaskSegmentor]) -> str:
    """Return 'shared' if one pass through one backbone serves all tasks, else 'per_task'."""
    per_task = len(models) > 1 or models[0].backbone.peft.per_task_forward
    return "per_task" if per_task else "shared"


def parameter_comparison(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of the counts of several configs, with the paper's numbers if it has them."""
    rows = []
    for s in summaries:
        paper = s.get("paper_millions")
        own = (s["encoder_trainable"] / 1e6, s["total_trainable"] / 1e6)
        rows.append({
            "config": Path(s["config"]).stem,
            "trainable\nbackbone": f"{s['encoder_trainable']:,}",
            "output\nnorms": f"{s['output_norms']:,}",
            "decoders": f"{s['decoder_trainable']:,}",
            "all": f"{s['total_trainable']:,}",
            "frozen": f"{s['frozen']:,}",
            "% of one\nbackbone": f"{100 * s['share_of_one_encoder']:.2f}",
            "% of a backbone\nper task": f"{100 * s['share_of_an_encoder_per_task']:.2f}",
            "here, M:\nbackbone / all": "{:.2f} / {:.2f}".format(*own) if paper else "",
            "paper, M:\nbackbone / all": "{:.2f} / {:.2f}".format(*paper.values()) if paper else "",
        })  # fmt: skip
    return table_of("parameters", rows)


def count_operations(run: Callable[[], object]) -> int:
    """Count the operations of a call."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION_FLOPS) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def count_flops(model: MultiTaskSegmentor, shape: Sequence[int]) -> list[dict[str, Any]]:
    """Return ``name``, ``flops`` and ``parameters`` of backbone and heads, for a shape (H, W)."""
    image = torch.randn(1, 3, *shape)
    features = model.eval().backbone(image)
    parts = [("encoder", model.backbone, image)]
    parts += [(f"head of {name}", model.heads[name], maps) for name, maps in features.items()]
    return [
        dict(name=name, flops=count_operations(partial(module, inputs)),
             parameters=sum(p.numel() for p in module.parameters()))
        for name, module, inputs in parts
    ]  # fmt: skip


@HOOKS.register_module()
class ParameterTableHook(Hook):
    """Logs a table of trainable and total parameters before training."""

    def before_train(self, runner: Runner) -> None:
        """Log the table."""
        runner.logger.info(f"parameters\n{parameter_table(unwrap(runner.model))}")


def parameter_table(model: nn.Module) -> str:
    """Format a table of a multi-task model's parameters: backbone, output norms, heads, sum."""
    rows = []
    for part, (trainable, total) in count_parameters(model).items():
        share = f"{100 * trainable / total:.2f} %" if total else "-"
        rows.append(dict(part=part, trainable=f"{trainable:,}", all=f"{total:,}", share=share))
    return render_table(table_of(None, rows))
