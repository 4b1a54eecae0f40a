"""One copy of a method's parameters per task, the paper's "Multiple" variant, or per group."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.checkpoints.keys import PEFT
from vmt_mm.errors import InputError
from vmt_mm.peft.method import Backbone, PEFTMethod, attach_method, build_method
from vmt_mm.peft.parameter_swap import call_with, find_parameter, replace_parameters, unregister
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class PerTask(PEFTMethod):
    """Train one copy of a method's parameters per task; the backbone runs once per task.

    Config: ``peft=dict(type="PerTask", method=dict(type="LoRA", rank=4))``. Keys of the copies are
    ``copies.<task>.<key>`` and ``group_copies.<group>.<key>``, with ``__`` for each dot in the key.

    Args:
        method: config of a method whose features all tasks share; others raise InputError.
        from_stage: first stage (0 to 3) with copies. Above 0, tasks share one pass of the earlier
            blocks, and the method's parameters there and outside blocks.
        groups: name of a group -> its tasks, which share one copy and one pass. Each task of the
            model must be in one group; names of other tasks are ignored.
        tasks_from_stage: with ``groups``, the first stage with a copy per task; None: no stage.
    """

    per_task_forward = True

    def __init__(
        self,
        method: dict,
        from_stage: int = 0,
        groups: Mapping[str, Sequence[str]] | None = None,
        tasks_from_stage: int | None = None,
    ) -> None:
        super().__init__()
        self.method = own = build_method(method)
        self._name = type(own).__name__
        if not own.shares_features:
            reason = f"{self._name} already has separate features per task"
            raise InputError(f"PerTask: {reason}; use it without PerTask")
        if type(from_stage) is not int or not 0 <= from_stage <= 3:
            raise InputError(f"PerTask: `from_stage` must be 0, 1, 2 or 3, got {from_stage!r}")
        last = 4 if tasks_from_stage is None else tasks_from_stage
        valid = groups is not None and type(last) is int and from_stage <= last <= 3
        if tasks_from_stage is not None and not valid:
            rule = f"`tasks_from_stage` needs `groups`, and must be from {from_stage} to 3"
            raise InputError(f"PerTask: {rule}, got {tasks_from_stage!r}")
        self.groups = groups
        self.stages = (from_stage, from_stage if groups is None else last)
        self.counts_output_norms = own.counts_output_norms
        # the wrapped method's hooks run with the copies of the task in place
        self.after_attn, self.after_mlp = own.after_attn, own.after_mlp
        self.after_residual, self.parallel_to_mlp = own.after_residual, own.parallel_to_mlp

    def attach(self, backbone: Backbone) -> None:
        """Attach the method, then copy its trainable parameters once per task or group."""
        if self.unfreeze:
            raise InputError(
                "PerTask: `unfreeze` must be in `method`, which gives it per-task copies"
            )
        self._groups = self._group_tasks(backbone.task_names)
        before = {name for name, _ in backbone.named_parameters()}
        attach_method(self.method, backbone)
        trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
        stage_of = {name: self._stage_of(name, backbone) for name in trained}
        trained = {n: p for n, p in trained.items() if stage_of[n] >= self.stages[0]}
        if not trained:
            raise InputError(f"PerTask: {self._name} has no trainable parameters to copy")
        self._keys = {name: name.replace(".", "__") for name in trained}
        self._of_groups = {name for name in trained if stage_of[name] < self.stages[1]}

        def copy(of_group: bool) -> nn.ParameterDict:
            own = {n: p for n, p in trained.items() if (n in self._of_groups) == of_group}
            return nn.ParameterDict({self._keys[n]: p.detach().clone() for n, p in own.items()})

        self.copies: Any = nn.ModuleDict({task: copy(False) for task in backbone.task_names})
        self.group_copies: Any = nn.ModuleDict({g: copy(True) for g in self._groups.values()})
        for parameter in trained.values():
            parameter.requires_grad_(False)
        unregister(backbone, trained.keys() - before)

    def _group_tasks(self, tasks: Sequence[str]) -> dict[str, str]:
        """Return the group of each task. Raises InputError unless every task is in one group."""
        if self.groups is None:
            return {}
        given = self.groups if isinstance(self.groups, Mapping) else {}
        taken = {*tasks, *dir(nn.ModuleDict())}
        named = all(isinstance(g, str) and g.isidentifier() and g not in taken for g in given)
        lists = all(isinstance(own, (list, tuple)) for own in given.values())
        found = [(task, group) for group, own in given.items() if lists for task in own]
        if not named or sorted(task for task, _ in found if task in tasks) != sorted(tasks):
            names = "names (identifiers, not of tasks, not reserved like 'items')"
            rule = f"map {names} to lists with each task of {list(tasks)} once"
            raise InputError(f"PerTask: `groups` must {rule}, got {self.groups!r}")
        return {task: group for task, group in found if task in tasks}

    def _stage_of(self, key: str, backbone: Backbone) -> int:
        """Return the stage of the block that a parameter belongs to; 0 for all other parameters."""
        if key.startswith(PEFT):
            index = self.block_of(key.removeprefix(PEFT))
            return 0 if index is None else backbone.block_specs[index].stage
        blocks = (b for b in backbone.block_specs if key.startswith(f"{b.name}."))
        return next((block.stage for block in blocks), 0)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set each copy to the pretrained values, or to the initial values of the method."""
        for task in self.copies:
            copies = self.parameters_for(task)
            with torch.no_grad():
                for name, copy in copies.items():
                    pretrained = find_parameter(backbone, name)
                    if pretrained is not None:
                        copy.copy_(pretrained)
            call_with(backbone, copies, self.method.reset_from_pretrained, backbone)

    def parameters_for(self, task: str) -> dict[str, Tensor]:
        """Return the copies of a task, and of its group."""
        of_group = self.group_copies[self._groups[task]] if self._of_groups else {}
        return {
            name: (of_group if name in self._of_groups else self.copies[task])[key]
            for name, key in self._keys.items()
        }

    def merge(self, backbone: Backbone, tasks: Sequence[str]) -> PEFTMethod:
        """Put the copies in place if ``tasks`` have the same ones; merge what is shared."""
        first, *others = map(self.parameters_for, tasks)
        differ = any(own[key] is not value for own in others for key, value in first.items())
        if not differ:
            replace_parameters(backbone, first)
        remaining = self.method.merge(backbone, tasks)
        return self if differ else remaining

    def block_of(self, key: str) -> int | None:
        """Return the block index that the wrapped method gives."""
        return self.method.block_of(key.removeprefix("method."))

    def original_name(self, key: str) -> str:
        """Return the name of the parameter that ``key`` is a copy of; ``key`` if none."""
        originals = {copy: name for name, copy in self._keys.items()}
        return originals.get(key.rpartition(".")[2], key) if "copies." in key else key
