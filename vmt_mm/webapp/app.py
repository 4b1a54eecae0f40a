"""The web page in Gradio. It asks no other server for anything."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from vmt_mm.apis.inferencer import MultiTaskInferencer
from vmt_mm.errors import InputError
from vmt_mm.webapp import page
from vmt_mm.webapp.examples import render_examples
from vmt_mm.webapp.prediction import Prediction, predict, write_archive

#: Seconds after which uploads, archives and predictions that nobody looks at are removed.
_KEPT = 3600
_SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"]
_START = "Upload an image, or pick an example."
_SYSTEM_FONTS = ("system-ui", "sans-serif")
#: Click the link that holds the archive once it is there.
_CLICK = "() => setTimeout(() => document.querySelector('#vmt-archive').click(), 300)"


def import_gradio() -> ModuleType:
    """Import Gradio with its reports to its makers switched off.

    Raises:
        InputError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            f"the web page needs Gradio ({error}): pip install 'vmt_mm[webapp]'"
        ) from None
    return gradio


class WebApp:
    """The page of one model.

    Args:
        inferencer: of the model.
        title: what the page is called.
        max_megapixels: larger images are refused.
        examples: how many scenes are rendered to pick from.
    """

    def __init__(
        self,
        inferencer: MultiTaskInferencer,
        title: str,
        max_megapixels: float = 25,
        examples: int = 6,
    ) -> None:
        self.gradio = import_gradio()
        self.inferencer, self.title = inferencer, title
        self.max_megapixels = max_megapixels
        self._folder = tempfile.TemporaryDirectory(prefix="vmt_mm-webapp-")
        self.folder = Path(self._folder.name).resolve()
        self.examples = render_examples(self.folder / "examples", examples)
        self.blocks = self._build()

    def launch(self, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
        """Serve the page; return its address.

        Args:
            host: address to listen on; the default is reached from this machine alone.
            port: None takes the first free one from 7860 on.
            block: serve until Ctrl-C.

        Raises:
            InputError: if the port is taken.
        """
        theme = self.gradio.themes.Default(
            primary_hue="indigo", font=_SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")
        )
        try:
            _, address, _ = self.blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size="64mb",
                theme=theme,
                css=page.CSS,
            )
        except OSError as error:
            raise InputError(f"the page cannot be served on {host}: {error}") from None
        print(f"the page: {address}", flush=True)
        if block:
            self.blocks.block_thread()
        return address

    def close(self) -> None:
        """End the server and remove its files."""
        self.blocks.close(verbose=False)
        self._folder.cleanup()

    def _build(self) -> Any:
        gr = self.gradio
        names = list(self.inferencer.model.tasks)
        with gr.Blocks(
            title=self.title, analytics_enabled=False, delete_cache=(_KEPT, _KEPT), fill_width=True
        ) as blocks:
            gr.Markdown(f"# {self.title}\nOne frozen encoder, one pass, every task.")
            current, shown = gr.State(str(self.examples[0])), gr.State(time_to_live=_KEPT)
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    upload = gr.File(
                        label="Image", file_types=_SUFFIXES, height=130, elem_id="vmt-upload"
                    )
                    gallery = gr.Gallery(
                        [str(path) for path in self.examples],
                        label="Examples (rendered)",
                        columns=3,
                        height=265,
                        selected_index=0,
                        allow_preview=False,
                        interactive=False,
                        buttons=[],
                        elem_id="vmt-examples",
                    )
                    chosen = gr.CheckboxGroup(names, value=names, label="Tasks")
                    opacity = gr.Slider(0, 100, 70, step=1, label="Opacity (%)")
                    download = gr.Button("Download as zip", interactive=False)
                    archive = gr.DownloadButton(visible="hidden", elem_id="vmt-archive")
                with gr.Column(scale=4, min_width=320):
                    result = gr.HTML(page.note(_START), elem_id="vmt-result")
            shows = dict(fn=self.show, inputs=[current, chosen], outputs=[result, shown, download])
            hidden = dict(api_visibility="private", show_progress="hidden")
            blocks.load(**shows)
            unpicked = gr.Gallery(selected_index=None)
            upload.upload(lambda path: (path, unpicked), upload, [current, gallery], **hidden).then(
                **shows
            )
            upload.clear(lambda: None, None, current, **hidden).then(**shows)
            gallery.select(self._picker(), None, [current, upload], **hidden).then(**shows)
            chosen.change(**shows)
            opacity.change(None, opacity, None, js=page.SET_OPACITY)
            download.click(self.archive, [shown, opacity], archive, **hidden).success(
                None, None, None, js=_CLICK
            )
        return blocks

    def _picker(self) -> Callable:
        """What gives the path of the example that was clicked, and empties the upload."""

        def pick(event: Any) -> tuple[str, None]:
            return str(self.examples[event.index]), None

        # Gradio tells by the type what to pass; its name is unknown here until it is imported
        pick.__annotations__["event"] = self.gradio.SelectData
        return pick

    def show(self, path: str | None, tasks: list[str]) -> tuple[str, Prediction | None, Any]:
        """Predict; give the page's results, what they were drawn from, and the button's state."""
        button = self.gradio.Button
        if not path:
            return page.note(_START), None, button(interactive=False)
        try:
            found = predict(self.inferencer, Path(path), tasks, self.max_megapixels)
        except InputError as error:
            return page.error(str(error)), None, button(interactive=False)
        model = self.inferencer.model
        content = page.tiles(found, model.tasks, model.dataset_meta)
        return content, found, button(interactive=True)

    def archive(self, found: Prediction | None, percent: float) -> str:
        """Write the archive of what is shown; return its path."""
        if found is None:
            raise self.gradio.Error("There is nothing to download: predict an image first.")
        archives = self.folder / "archives"
        archives.mkdir(exist_ok=True)
        for old in archives.iterdir():
            if old.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=archives))
        return str(write_archive(found, self.inferencer, folder, percent / 100))
