# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The page itself, on Gradio."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

FOLDER = tempfile.TemporaryDirectory(prefix="clipzoo-app-")
os.environ["GRADIO_TEMP_DIR"] = FOLDER.name  # Gradio reads both when it is imported
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402

from anomalib_clipzoo.deploy.answers import OPACITY, to_png  # noqa: E402
from anomalib_clipzoo.deploy.trial import MOST_REFERENCES, Choice, Looked, Trial, draw, to_table  # noqa: E402

SUFFIXES = [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"]
THRESHOLD = 0.5
SHOWN = ("image", "score", "label", "region_count", "problem")
"""Columns of the table on the page; the file has more."""
CSS = "#heatmap img { width: 100%; height: 100%; object-fit: contain; }"
FONTS = ("system-ui", "sans-serif")
"""Fonts of the reader's own machine: the page loads nothing from elsewhere."""


@dataclass(frozen=True)
class Start:
    """What the page begins with."""

    model: str
    weights: str | None
    backbone: str
    class_name: str


def make_page(start: Start, trial: Trial) -> gr.Blocks:
    """Lay out the page.

    Args:
        start: What it begins with.
        trial: What it does.
    """
    models = sorted(entry.name for entry in entry_points(group="anomalib.models") if "anomalib_clipzoo" in entry.value)
    with gr.Blocks(title="anomalib-clipzoo", analytics_enabled=False) as page:
        gr.Markdown("# Which of these images are anomalous?\nZero- and few-shot anomaly detection with CLIP.")
        looked = gr.State([])
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    model = gr.Dropdown(models, value=start.model, label="Model", elem_id="model")
                    backbone = gr.Textbox(start.backbone, label="CLIP (weights know theirs)", elem_id="backbone")
                with gr.Row():
                    words = gr.Textbox(
                        start.class_name, label="What they show (exported files know it)", elem_id="words"
                    )
                    weights = gr.Textbox(
                        start.weights or "", label="File of weights on this machine, or none", elem_id="weights"
                    )
                images = _gallery("Images to judge", "images")
                references = _gallery(f"Normal images to compare with (none, or up to {MOST_REFERENCES})", "references")
                with gr.Row():
                    toy = gr.Button("Draw toy images", elem_id="toy")
                    go = gr.Button("Find anomalies", variant="primary", elem_id="go")
            with gr.Column():
                shown = gr.Dropdown([], label="Image", elem_id="shown", interactive=True)
                heatmap = gr.Image(label="Heatmap", format="png", height=360, buttons=["fullscreen"], elem_id="heatmap")
                opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity of the heatmap", elem_id="opacity")
                threshold = gr.Slider(
                    *(0, 1, THRESHOLD), step=0.01, label="Threshold of score and pixels", elem_id="threshold"
                )
                table = gr.Dataframe(label="Scores", interactive=False, elem_id="table")
                with gr.Row():
                    overlay_file = gr.DownloadButton("Download the overlay", elem_id="overlay-file")
                    table_file = gr.DownloadButton("Download the table (CSV)", elem_id="table-file")

        def find(name: str, clip: str, class_name: str, file: str, paths: Any, normal: Any, limit: float) -> list:
            if not paths:
                raise gr.Error("There is no image yet: drop one, take one, or have toy images drawn.")
            choice = Choice(name, file.strip(), clip.strip(), class_name.strip(), tuple(_files(normal)))
            try:
                found = trial.look(trial.load(choice), _files(paths))
            except (ValueError, OSError) as error:
                raise gr.Error(str(error)) from error
            names = [(f"{number}: {one.name}", number) for number, one in enumerate(found, start=1)]
            return [found, gr.Dropdown(names, value=1), *tables(found, limit)]

        def tables(found: list[Looked], limit: float) -> list:
            if not found:
                return [None, None]
            rows = to_table(found, limit)
            path = _place(trial.folder, "scores.csv")
            rows.to_csv(path, index=False)
            return [rows[list(SHOWN)].round({"score": 3}), str(path)]

        def pictures(found: list[Looked], number: int | None, alpha: float, limit: float) -> list:
            if not found or not number:
                return [None, None]
            one = found[number - 1]
            picture = draw(one, alpha, limit)
            if picture is None:
                return [None, None]
            path = _place(trial.folder, f"{Path(one.name).stem}_overlay.png")
            path.write_bytes(to_png(picture))
            return [str(path), str(path)]

        chosen = [model, backbone, words, weights, images, references, threshold]
        drawn, on = [heatmap, overlay_file], [looked, shown, opacity, threshold]
        go.click(find, chosen, [looked, shown, table, table_file]).success(pictures, on, drawn)
        shown.input(pictures, on, drawn)
        opacity.release(pictures, on, drawn)
        threshold.release(pictures, on, drawn)
        threshold.release(tables, [looked, threshold], [table, table_file])
        toy.click(trial.toy_images, None, [images, references])
    return page


def _gallery(label: str, name: str) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        elem_id=name,
        sources=["upload", "webcam", "clipboard"],
        file_types=SUFFIXES,
        columns=4,
        height=220,
        interactive=True,
        allow_preview=False,
        object_fit="contain",
        buttons=[],
    )


def _files(gallery: Any) -> list[str]:
    return [path for path, _ in gallery or []]


def _place(folder: Path, name: str) -> Path:
    """Make a place for a file that keeps its name when it is downloaded."""
    place = folder / uuid.uuid4().hex
    place.mkdir()
    return place / name


def show(start: Start, *, host: str, port: int, device: str, most_bytes: int, most_pixels: int, open_it: bool) -> None:
    """Show the page until the command is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    trial = Trial(Path(FOLDER.name), device, most_pixels)
    page = make_page(start, trial)
    theme = gr.themes.Default(font=FONTS, font_mono=("monospace",))
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=most_bytes,
        inbrowser=open_it,
        share=False,
        show_error=True,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
        allowed_paths=[],
    )
