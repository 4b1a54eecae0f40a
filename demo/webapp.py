"""Serve a web page that shows predictions: `python demo/webapp.py [CONFIG CHECKPOINT]`.

Without arguments it serves the embedded model. Needs the extra `webapp`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt_mm.apis.inference import EMBEDDED_ADAPTER
from vmt_mm.cli.arguments import add_model_arguments, build_inferencer
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.webapp.app import WebApp, import_gradio


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    add_model_arguments(parser, default=EMBEDDED_ADAPTER)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    parser.add_argument(
        "--max-megapixels", type=float, default=25, help="larger images are refused"
    )
    return parser.parse_args()


def serve(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    import_gradio()
    if args.tasks is not None:
        raise InputError("--tasks: choose the tasks on the page")
    if args.config == EMBEDDED_ADAPTER and not Path(args.config).is_file():
        raise InputError(
            f"{args.config}: the embedded model is not there: train one by `make demo`, and "
            "either give its config and checkpoint, or write it there by "
            "tools/model_converters/export_adapter.py"
        )
    inferencer = build_inferencer(args, show_progress=False)
    app = WebApp(inferencer, f"vmt_mm: {Path(args.config).stem}", args.max_megapixels)
    try:
        app.launch(args.host, args.port)
    finally:
        app.close()


def main() -> None:
    """Serve the page."""
    args = parse_args()
    with friendly_errors():
        serve(args)


if __name__ == "__main__":
    main()
