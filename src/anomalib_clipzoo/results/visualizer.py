# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's pictures, with the verdict written on them and each in a place of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch, ImageItem
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.item_visualizer import visualize_image_item
from lightning.pytorch import LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from anomalib_clipzoo.plugin.patches.images import common_folder, image_paths
from anomalib_clipzoo.results.folder_images import problems_of
from anomalib_clipzoo.results.images import read_pixels
from anomalib_clipzoo.results.rows import LABELS, Thresholds

LINE = 24
"""Height of a line of text above the picture, in pixels; there are always two lines."""
TITLE_LINE = 18
"""Height of the line of titles above the panels."""
HEADER = 2 * LINE + TITLE_LINE
FONT_SIZE = 16
TITLE_SIZE = 12
SMALLEST_FONT = 8
TITLES = {"gt_mask": "ground truth", "anomaly_map": "heatmap", "pred_mask": "predicted mask"}
COLOURS = {"anomalous": "#ff8a80", "normal": "#b9f6ca"}
JPEG_QUALITY = 92
PNG_LEVEL = 1
"""At Pillow's own level 6, writing took longer than all the rest of a prediction on a small model."""


class HeatmapVisualizer(ImageVisualizer):
    """anomalib's ``ImageVisualizer``, with the verdict above each picture.

    The first line gives label, score and threshold. Where label and mask seem to contradict each other (an anomalous
    image without a single anomalous pixel, or the other way round) the second line says why, and a cross marks the
    highest pixel. Pictures lie in ``images`` in the run's folder, in the same folders as the images that they show,
    so that equal names do not overwrite each other.

    Takes the arguments of anomalib's ``ImageVisualizer``. Titles stand above the panels, not on them, unless
    ``text_config`` is given.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not kwargs.get("text_config"):
            self.text_config = {**self.text_config, "enable": False}
        self._root: Path | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder that all images of the run are in."""
        del pl_module
        name = getattr(getattr(trainer, "datamodule", None), "name", None)
        loaders = trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders
        self._root = common_root(list(image_paths(loaders)), name)

    on_predict_start = on_test_start

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw and save the pictures of a batch."""
        del outputs, batch_idx, dataloader_idx
        if writes_nothing(trainer):
            return
        thresholds = Thresholds.of(getattr(pl_module, "post_processor", None))
        for item, problem in zip(batch, problems_of(batch), strict=True):
            if not problem:
                _save(self.draw(item, thresholds), self.picture_path(trainer, item.image_path))  # type: ignore[arg-type]

    on_predict_batch_end = on_test_batch_end

    def picture_path(self, trainer: Trainer, image_path: str) -> Path:
        """Tell where an image's picture is saved."""
        folder = Path(self.output_dir) if self.output_dir else Path(trainer.default_root_dir) / "images"
        path = Path(os.path.abspath(image_path))  # noqa: PTH100  # links are not followed: names are to be recognised
        if self._root is not None and path.is_relative_to(self._root):
            return folder / path.relative_to(self._root)
        return folder / path.relative_to(path.anchor)

    def draw(self, item: ImageItem, thresholds: Thresholds) -> Image.Image:
        """Draw the panels of an image after post-processing, and the verdict above them.

        Args:
            item: The image with its predictions; it is read from ``image_path`` again, at its own size.
            thresholds: What the post-processor decided by.

        Returns:
            The picture.
        """
        panels = visualize_image_item(
            self._at_panel_size(item),
            fields=self.fields,
            overlay_fields=self.overlay_fields,
            field_size=self.field_size,
            fields_config=self.fields_config,
            overlay_fields_config=self.overlay_fields_config,
            text_config=self.text_config,
        )
        verdict = verdict_of(item, thresholds)
        if panels is None:  # nothing to draw: the batch has none of the fields
            panels = Image.new("RGB", self.field_size)
        if verdict.marks_peak and item.anomaly_map is not None:
            self._mark_peak(panels, item.anomaly_map.squeeze())
        return _under_header(panels, verdict, [] if self.text_config["enable"] else self._titles(item))

    def _titles(self, item: ImageItem) -> list[str]:
        """Name the panels that are drawn."""
        there = {name: TITLES.get(name, name) for name in vars(item) if getattr(item, name) is not None}
        overlays = [[there[name] for name in names if name in there] for _, names in self.overlay_fields]
        return [there[name] for name in self.fields if name in there] + [" + ".join(names) for names in overlays]

    def _at_panel_size(self, item: ImageItem) -> ImageItem:
        """Read the image, and enlarge or reduce the masks, so that contours are a pixel wide in the picture."""
        changes: dict[str, Any] = {}
        if item.image_path is not None:
            changes = {"image": read_pixels(item.image_path), "image_path": None}
        width, height = self.field_size
        for name in ("gt_mask", "pred_mask"):
            mask = getattr(item, name)
            if mask is not None:
                changes[name] = resize(mask[None], [height, width], InterpolationMode.NEAREST)[0]
        return item.update(in_place=False, **changes)

    def _mark_peak(self, panels: Image.Image, anomaly_map: Tensor) -> None:
        """Put a cross on the highest pixel of a map ``(h, w)``, on every overlay."""
        row, column = divmod(int(anomaly_map.argmax()), anomaly_map.shape[-1])
        width, height = self.field_size
        x, y = (column + 0.5) * width / anomaly_map.shape[-1], (row + 0.5) * height / anomaly_map.shape[-2]
        pencil, arm = ImageDraw.Draw(panels), max(4, height // 25)
        for number in range(1, len(self.overlay_fields) + 1):
            left = panels.width - number * width + x
            for colour, line in (("black", 4), ("white", 2)):
                pencil.line((left - arm, y - arm, left + arm, y + arm), fill=colour, width=line)
                pencil.line((left - arm, y + arm, left + arm, y - arm), fill=colour, width=line)


@dataclass(frozen=True)
class Verdict:
    """What is written above a picture.

    Attributes:
        label: ``"normal"`` or ``"anomalous"``, ``None`` where nothing was decided.
        text: Label, score and threshold.
        explanation: Why label and mask differ, if they do.
        marks_peak: Whether the highest pixel is to be marked.
    """

    label: str | None
    text: str
    explanation: str = ""
    marks_peak: bool = False


def verdict_of(item: ImageItem, thresholds: Thresholds) -> Verdict:
    """Put label, score and threshold of an image into words."""
    label = None if item.pred_label is None else LABELS[bool(item.pred_label)]
    score = "" if item.pred_score is None else f"score {float(item.pred_score):.3f}"
    limit = "" if thresholds.image is None else f"threshold {thresholds.image:.3f}"
    text = ", ".join(part for part in (label, score, limit) if part)
    if label is None or item.pred_mask is None:
        return Verdict(label, text)
    masked, pixel_limit = bool(item.pred_mask.any()), "" if thresholds.pixel is None else f" {thresholds.pixel:.3f}"
    if label == "anomalous" and not masked:
        explanation = f"no pixel is above the pixel threshold{pixel_limit}: the cross marks the highest"
        return Verdict(label, text, explanation, marks_peak=item.anomaly_map is not None)
    if label == "normal" and masked:
        return Verdict(label, text, f"pixels are above the pixel threshold{pixel_limit}, the image's score is not")
    return Verdict(label, text)


def _under_header(panels: Image.Image, verdict: Verdict, titles: Sequence[str]) -> Image.Image:
    """Put the verdict and the titles above the panels."""
    picture = Image.new("RGB", (panels.width, panels.height + HEADER), "#202020")
    picture.paste(panels, (0, HEADER))
    pencil = ImageDraw.Draw(picture)
    lines = ((verdict.text, COLOURS.get(verdict.label or "", "white")), (verdict.explanation, "white"))
    for number, (text, colour) in enumerate(lines):
        pencil.text((8, number * LINE + 2), text, fill=colour, font=_fitting_font(text, panels.width - 16))
    for number, title in enumerate(titles):
        place = (number * panels.width // len(titles) + 8, 2 * LINE)
        pencil.text(place, title, fill="#bdbdbd", font=ImageFont.load_default(TITLE_SIZE))
    return picture


def _fitting_font(text: str, width: int) -> Any:
    """Choose the largest size at which a line fits."""
    for size in range(FONT_SIZE, SMALLEST_FONT, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            return font
    return ImageFont.load_default(SMALLEST_FONT)


def _save(picture: Image.Image, path: Path) -> None:
    """Save a picture; where that fails, leave no half of it and name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture.save(path, quality=JPEG_QUALITY, compress_level=PNG_LEVEL)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def writes_nothing(trainer: Any) -> bool:
    """Tell whether a run is only tried out, and leaves no files."""
    return bool(trainer.fast_dev_run or trainer.barebones)


def heatmap_tile(visualizer: ImageVisualizer) -> tuple[int, int, int, int] | None:
    """Tell where the heatmap is on the pictures of a visualizer, see :class:`.run_record.RunRecord`."""
    width, height = visualizer.field_size
    header = HEADER if isinstance(visualizer, HeatmapVisualizer) else 0
    for number, (_, overlays) in enumerate(reversed(visualizer.overlay_fields), start=1):
        if "anomaly_map" in overlays:
            return number * width, header, width, height
    return None


def common_root(paths: Sequence[str], name: str | None = None) -> Path | None:
    """Find what the paths of pictures are relative to.

    Args:
        paths: Paths of all images of a run.
        name: The dataset's name.

    Returns:
        The folder that all of them are in, if it bears the dataset's name, else the folder around it, so that the
        folder's name is kept; ``None`` if they have none in common.
    """
    folder = common_folder(os.path.dirname(os.path.abspath(path)) for path in paths)  # noqa: PTH100, PTH120
    if folder is None:
        return None
    return folder if name and folder.name.lower() == name.lower() else folder.parent
