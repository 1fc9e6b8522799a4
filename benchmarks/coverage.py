# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How many new normal images are called anomalous: thresholds for a false alarm rate, on ToyAD's unseen categories.

```
python benchmarks/coverage.py --write docs/thresholds.md
```

Normal images are drawn anew, by the program that draws ToyAD, and scored by zero-shot WinClipPlus on the toy CLIP.
Then, many times, some of them, chosen at random, give the thresholds, and another one is labelled by them, all by the
post-processor that every model has. Every one of these images is as likely to be the new one as any other, so that the
number of false alarms is binomial with a known probability. The bounds are such that in 99 of 100 tables all rows lie
within them. (Bounds of 99 % for each row would leave one of twelve rows outside in one of nine tables.) Beside it:
thresholds with the best F1 score on validation images of the seen categories, normal and anomalous, as without a rate.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from scipy.stats import beta, binom

from anomalib_clipzoo.data.drawing import DEFECTS, draw
from anomalib_clipzoo.data.toy import SEEN_CATEGORIES, UNSEEN_CATEGORIES
from anomalib_clipzoo.metrics.thresholds import images_needed, rank
from anomalib_clipzoo.models.components.post_processor import ProbabilityPostProcessor
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.results.parts import fill_parts

BATCH = 50
IMAGES = {0.05: 39, 0.1: 19}
"""Normal validation images for each rate."""

CHOICES = 0.9
"""Share of choices of validation images in which the rate of the threshold that comes of it is at most so high."""

CONFIDENCE = 0.99
"""Probability that all rows of the table lie within their bounds."""


class Scored(NamedTuple):
    """Scores ``(N,)``, maps ``(N, H, W)``, labels ``(N,)`` and masks ``(N, H, W)`` of drawn images."""

    scores: torch.Tensor
    maps: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor

    def batch(self, rows: list[int]) -> ImageBatch:
        """Images as a model hands them to its post-processor."""
        return ImageBatch(
            image=torch.zeros(len(rows), 3, 1, 1),
            pred_score=self.scores[rows].clone(),
            anomaly_map=self.maps[rows].clone(),
            gt_label=self.labels[rows],
            gt_mask=self.masks[rows],
        )


@torch.inference_mode()
def score(model: WinClipPlus, category: str, defects: list[str | None], seed: int) -> Scored:
    """Draw an image for each defect (``None`` for a normal one) and score them."""
    parts = []
    for start in range(0, len(defects), BATCH):
        drawn = [
            draw(category, defect, np.random.default_rng([seed, start + place]))
            for place, defect in enumerate(defects[start : start + BATCH])
        ]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).float() / 255
        masks = torch.from_numpy(np.stack([mask for _, mask in drawn])).bool()
        predictions = model.model(model.pre_processor(images))
        maps = predictions.anomaly_map.reshape(masks.shape)
        parts.append(Scored(predictions.pred_score.flatten(), maps, masks.flatten(1).any(1), masks))
    return Scored(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def fitted(rate: float | None, batches: list[ImageBatch]) -> ProbabilityPostProcessor:
    """Return a post-processor whose thresholds come from these batches."""
    post_processor = ProbabilityPostProcessor(false_alarm_rate=rate)
    for number, batch in enumerate(batches):
        post_processor.on_validation_batch_end(None, None, batch, None, number)
    post_processor.on_validation_epoch_end(None, None)
    return post_processor


def measure(pool: Scored, rate: float, splits: int, seed: int) -> tuple[int, float]:
    """Count false alarms over many splits, and take the mean share of a new image's pixels above the threshold."""
    generator, images = np.random.default_rng(seed), IMAGES[rate]
    alarms, share = 0, 0.0
    for _ in range(splits):
        rows = generator.choice(len(pool.scores), images + 1, replace=False).tolist()
        new = pool.batch(rows[-1:])
        fitted(rate, [pool.batch(rows[:-1])]).post_process_batch(new)
        alarms += int(new.pred_label)
        share += float(new.pred_mask.float().mean()) / splits
    return alarms, share


def rates_of_choices() -> str:
    """Lay out, for rates and numbers of images, the rate that is exceeded in one of ten choices of images.

    Whatever the scores, the share of new images above the threshold has a beta distribution (Angelopoulos and Bates,
    section 3.2).
    """
    lines = ["| rate | fewest images | about twice as many | about ten times as many |", "|---:|---|---|---|"]
    for rate in (0.1, 0.05, 0.02, 0.01, 0.001):
        cells = []
        for times in (1, 2, 10):
            images = times * (images_needed(rate) + 1) - 1
            place = rank(images, rate)
            cells.append(f"{images}: {beta.ppf(CHOICES, images + 1 - place, place):.2%}")
        lines.append(f"| {rate:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="normal images drawn of each category")
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--write", type=Path, help="the page whose table is to be replaced")
    arguments = parser.parse_args()
    model = WinClipPlus(backbone="toy").eval()
    seen = [
        score(model, category, [None] * 16 + [*DEFECTS] * 2, seed).batch(list(range(16 + 2 * len(DEFECTS))))
        for seed, category in enumerate(SEEN_CATEGORIES)
    ]
    best_f1 = fitted(None, seen)
    confidence = 1 - (1 - CONFIDENCE) / (len(UNSEEN_CATEGORIES) * len(IMAGES))
    lines = [
        "| category | validation images | rate | false alarms (bounds) | pixels above | best F1 score instead |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for number, category in enumerate(UNSEEN_CATEGORIES):
        pool = score(model, category, [None] * arguments.images, 1000 + number)
        everything = pool.batch(list(range(arguments.images)))
        best_f1.post_process_batch(everything)
        otherwise = float(everything.pred_label.float().mean())
        for rate, images in IMAGES.items():
            alarms, share = measure(pool, rate, arguments.splits, number)
            probability = 1 - rank(images, rate) / (images + 1)
            low, high = np.array(binom.interval(confidence, arguments.splits, probability)) / arguments.splits
            found = alarms / arguments.splits
            mark = "" if low <= found <= high else " **outside**"
            lines.append(
                f"| {category} | {images} | {rate:.0%} | {found:.1%} ({low:.1%} to {high:.1%}){mark} | {share:.1%} "
                f"| {otherwise:.0%} |"
            )
    parts = {"false alarms": "\n".join(lines), "images needed": rates_of_choices()}
    if arguments.write:
        page = arguments.write.read_text()
        for name, table in parts.items():
            page = fill_parts(page, name, {"table": table}.__getitem__)
        arguments.write.write_text(page)
    else:
        print(*parts.values(), sep="\n\n")


if __name__ == "__main__":
    main()
