"""Add a task to a trained model: write a config that trains only the new task.

python tools/misc/add_task.py CONFIG CHECKPOINT --task NAME --type TYPE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import DictAction

from vmt_mm.cli.errors import friendly_errors
from vmt_mm.loading.edit import add_task
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="config of the trained model")
    parser.add_argument("checkpoint", type=Path, help="its checkpoint or adapter file")
    parser.add_argument("--task", required=True, metavar="NAME", help="name of the new task")
    parser.add_argument("--type", required=True, help="type, such as Edge or Segmentation")
    parser.add_argument(
        "--task-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="other arguments of the task, such as num_classes=4 loss_weight=5.0",
    )
    parser.add_argument("--head", metavar="TYPE", help="type of its head; default: the model's")
    parser.add_argument(
        "--head-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE"
    )
    parser.add_argument(
        "--out-config", type=Path, help="config to write; default: CONFIG's name with _add-NAME"
    )
    args = parser.parse_args()
    if args.head_options and not args.head:
        parser.error("--head-options needs --head")
    return args


def main() -> None:
    """Write the config; print the trainable parameters and the next command."""
    args = parse_args()
    config = args.out_config or args.config.with_name(f"{args.config.stem}_add-{args.task}.py")
    head = dict(type=args.head, **args.head_options) if args.head else None
    task = dict(type=args.type, **args.task_options)
    with friendly_errors():
        model = add_task(args.config, args.checkpoint, args.task, task, config, head)
    parameters = list(model.parameters())
    trains = sum(p.numel() for p in parameters if p.requires_grad)
    print(f"wrote {config}, tasks: {', '.join(model.tasks)}")
    print(f"trainable parameters: {trains:,} of {sum(p.numel() for p in parameters):,}")
    print(f"next: python tools/train.py {config}")


if __name__ == "__main__":
    main()
