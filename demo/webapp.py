"""Serve predictions on a web page: `python demo/webapp.py [CONFIG CHECKPOINT]`.

Without arguments, the embedded model is used. Requires the extra `webapp`.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from vmt_mm.apis import MultiTaskInferencer
from vmt_mm.apis.inference import EMBEDDED_ADAPTER
from vmt_mm.cli.arguments import add_model_arguments, build_inferencer
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.errors import InputError
from vmt_mm.rendering import render_scene
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import encode_image, write_image
from vmt_mm.visualization import draw_overlay

_KEPT = 3600  # seconds until uploads, archives and predictions are removed
_SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"]


class Prediction(NamedTuple):
    """An image's name, its pixels (H, W, 3) RGB uint8, its predictions, and their time."""

    name: str
    image: np.ndarray
    sample: MultiTaskDataSample
    seconds: float  # from pixels to predictions


def import_gradio() -> ModuleType:
    """Import Gradio with telemetry disabled."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            f"the web page needs Gradio ({error}); run pip install 'vmt_mm[webapp]'"
        ) from None
    return gradio


def render_examples(folder: Path, count: int = 6, size: int = 224) -> list[Path]:
    """Render scenes that no training uses into a folder; return their files."""
    paths = [folder / f"scene_{index + 1}.png" for index in range(count)]
    for index, path in enumerate(paths):
        write_image(path, render_scene(0, "webapp", index, size).image)
    return paths


def predict(
    inferencer: MultiTaskInferencer, path: Path, tasks: Sequence[str], max_megapixels: float
) -> Prediction:
    """Predict an image file."""
    if not tasks:
        raise InputError("Choose at least one task.")
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as header:  # reads no pixel yet
            megapixels = header.width * header.height / 1e6
    except FileNotFoundError:
        raise InputError(f"{path.name} no longer exists. Upload it again.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(
            f"{path.name} cannot be read as an image. Expected: JPEG, PNG, BMP, WebP or TIFF."
        ) from None
    if megapixels > max_megapixels:
        raise InputError(
            f"{path.name} has {megapixels:.1f} megapixels; at most {max_megapixels:g} are allowed."
        )
    image = inferencer.pipeline.reader.decode(content, path.name)
    shown = cv2.cvtColor(displayable(image), cv2.COLOR_BGR2RGB)
    started = time.perf_counter()
    [sample] = inferencer.forward([inferencer.pipeline.prepare(image, path.stem)], tasks)
    sample = sample.cpu()
    return Prediction(path.stem, shown, sample, time.perf_counter() - started)


def draw(
    inferencer: MultiTaskInferencer, found: Prediction, opacity: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The panel with legends, and a dict of overlays per task, RGB; ``opacity``: [0, 1]."""
    model = inferencer.model
    overlays = {
        name: draw_overlay(found.image, found.sample, task, model.dataset_meta, opacity)
        for name, task in model.tasks.items()
        if found.sample.prediction(name) is not None
    }
    return inferencer.draw(found.image[..., ::-1], found.sample, opacity), overlays


def write_archive(
    inferencer: MultiTaskInferencer, found: Prediction, folder: Path, opacity: float
) -> Path:
    """Write ``<name>_predictions.zip``: label files, ``overlays/<task>.png`` and ``panel.png``."""
    panel, overlays = draw(inferencer, found, opacity)
    pictures = {"panel.png": panel}
    for name, overlay in overlays.items():
        label = inferencer.model.tasks[name].label
        pictures[f"overlays/{name}.png"] = overlay
        values = label.encode(found.sample.prediction(name).numpy())
        pictures[f"{name}/{found.name}{label.suffix}"] = values
    path = folder / f"{found.name}_predictions.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in pictures.items():
            archive.writestr(name, encode_image(picture, Path(name).suffix))
    return path


def build_page(
    inferencer: MultiTaskInferencer, title: str, folder: Path, max_megapixels: float = 25
) -> Any:
    """The page as ``gradio.Blocks``; examples and archives go into ``folder``."""
    gr = import_gradio()
    names, device = list(inferencer.model.tasks), next(inferencer.model.parameters()).device
    examples = render_examples(folder / "examples")

    def run(path: str | None, tasks: list[str]) -> Prediction | None:
        try:
            return predict(inferencer, Path(path), tasks, max_megapixels) if path else None
        except InputError as error:
            raise gr.Error(str(error)) from None

    def show(found: Prediction | None, percent: float) -> tuple:
        if found is None:
            return None, [], ""
        panel, overlays = draw(inferencer, found, percent / 100)
        pictures = [(picture, name) for name, picture in overlays.items()]
        size = f"{found.image.shape[1]} x {found.image.shape[0]} pixels"
        text = f"{found.name}, {size}: {len(overlays)} task(s) in {found.seconds:.2f} s on {device}"
        return panel, [(found.image, found.name), *pictures], text

    def pick(event: Any) -> tuple[str, None]:
        return str(examples[event.index]), None

    def archive(found: Prediction | None, percent: float) -> str:
        if found is None:
            raise gr.Error("Nothing to download. Predict an image first.")
        for old in folder.glob("zip-*"):
            if old.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(old, ignore_errors=True)
        own = Path(tempfile.mkdtemp(prefix="zip-", dir=folder))
        return str(write_archive(inferencer, found, own, percent / 100))

    pick.__annotations__["event"] = gr.SelectData  # Gradio passes the event by annotation
    with gr.Blocks(title=title, delete_cache=(_KEPT, _KEPT), fill_width=True) as page:
        gr.Markdown(f"# {title}\nOne frozen backbone, one pass, every task.")
        path, found = gr.State(str(examples[0])), gr.State(time_to_live=_KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.File(label="Image", file_types=_SUFFIXES, height=130)
                gallery = gr.Gallery(
                    [str(example) for example in examples], label="Examples (rendered)",
                    columns=3, height=265, allow_preview=False, interactive=False,
                )  # fmt: skip
                tasks = gr.CheckboxGroup(names, value=names, label="Tasks")
                opacity = gr.Slider(0, 100, 70, step=1, label="Opacity (%)")
                button = gr.Button("Write predictions as zip")
                file = gr.File(label="Download", interactive=False)
            with gr.Column(scale=4, min_width=320):
                time_taken = gr.Markdown()
                overlays = gr.Gallery(label="Predictions over the image", columns=3, format="png")
                panel = gr.Image(label="Predictions with legends", format="png")
        drawing = dict(fn=show, inputs=[found, opacity], outputs=[panel, overlays, time_taken])
        running = dict(fn=run, inputs=[path, tasks], outputs=found)
        page.load(**running).success(**drawing)
        upload.upload(lambda given: given, upload, path).success(**running).success(**drawing)
        upload.clear(lambda: None, None, path).success(**running).success(**drawing)
        gallery.select(pick, None, [path, upload]).success(**running).success(**drawing)
        tasks.change(**running).success(**drawing)
        opacity.release(**drawing)
        button.click(archive, [found, opacity], file)
    return page


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    add_model_arguments(parser, default=EMBEDDED_ADAPTER)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    parser.add_argument("--max-megapixels", type=float, default=25, help="limit of the image size")
    return parser.parse_args()


def serve(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C, without contacting other servers."""
    gr = import_gradio()
    if args.tasks is not None:
        raise InputError("--tasks is not supported here; choose tasks on the page")
    if args.config == EMBEDDED_ADAPTER and not Path(args.config).is_file():
        raise InputError(f"{args.config}: no embedded model; run `make demo` to train one")
    inferencer = build_inferencer(args, show_progress=False, turn_by_exif=True)
    folder = Path(tempfile.mkdtemp(prefix="vmt_mm-webapp-")).resolve()
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",))
    title = f"vmt_mm: {Path(args.config).stem}"
    try:
        build_page(inferencer, title, folder, args.max_megapixels).launch(
            server_name=args.host, server_port=args.port, share=False, ssr_mode=False, theme=theme,
            enable_monitoring=False, footer_links=[], max_file_size="64mb",
            allowed_paths=[str(folder)],
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"cannot serve the page on {args.host}: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Serve the page."""
    args = parse_args()
    with friendly_errors():
        serve(args)


if __name__ == "__main__":
    main()
