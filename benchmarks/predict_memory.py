# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Memory of ``anomalib predict`` while it goes through a large folder.

```
python benchmarks/predict_memory.py --images 20000
```

The folder holds links to 500 toy images. The command runs in a process of its own; whenever so many more rows of its
table are written, the memory that it holds is read.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from anomalib_clipzoo.data.drawing import draw
from anomalib_clipzoo.data.toy import CATEGORIES

DRAWN = 500
PAUSE = 0.1
MEGABYTE = 1e6


def make_folder(folder: Path, images: int) -> None:
    """Draw 500 images, or fewer if fewer are asked for, and link to them under as many names as asked for."""
    import numpy as np
    from PIL import Image

    originals = folder.with_name(f"{folder.name}_originals")
    originals.mkdir(parents=True)
    folder.mkdir()
    count = min(DRAWN, images)
    for number in range(count):
        image, _ = draw(CATEGORIES[number % len(CATEGORIES)], None, np.random.default_rng(number))
        Image.fromarray(image).save(originals / f"{number:03}.png")
    for number in range(images):
        (folder / f"{number:06}.png").symlink_to(originals / f"{number % count:03}.png")


def watch(command: Sequence[str], table: Path, step: int, log: Path) -> Iterator[tuple[int, float]]:
    """Run a command, and read its memory whenever a table has so many more rows.

    Yields:
        Number of rows and resident memory in megabytes.

    Raises:
        RuntimeError: If the command fails.
    """
    with log.open("w") as file:
        process = psutil.Popen(command, stdout=file, stderr=file)
        place, rows = 0, -1  # the first line is the header
        due = step
        while process.poll() is None:
            if table.exists():
                with table.open("rb") as written:
                    written.seek(place)
                    new = written.read()
                place, rows = place + len(new), rows + new.count(b"\n")
            if rows >= due:
                yield rows, process.memory_info().rss / MEGABYTE
                due = rows - rows % step + step
            time.sleep(PAUSE)
    if process.returncode:
        msg = f"{' '.join(command)}\n{log.read_text()[-3000:]}"
        raise RuntimeError(msg)


def measure(folder: Path, images: int, step: int, pictures: bool) -> Iterator[tuple[int, float]]:
    """Predict a folder of so many images; see :func:`watch`."""
    make_folder(folder / "photos", images)
    anomalib = Path(sys.executable).with_name("anomalib")
    command = [
        str(anomalib),
        "predict",
        "--model",
        "VcpClip",
        "--model.backbone",
        "toy",
        "--data",
        str(folder / "photos"),
    ]
    command += ["--default_root_dir", str(folder / "results"), "--trainer.accelerator", "cpu"]
    command += ["--trainer.enable_progress_bar", "false", "--model.visualizer", str(pictures).lower()]
    table = folder / "results" / "VcpClip" / "latest" / "predictions.csv"
    return watch(command, table, step, folder / "log.txt")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="how many images the folder has")
    parser.add_argument("--step", type=int, default=2_000, help="after how many images memory is read")
    parser.add_argument("--pictures", action="store_true", help="draw pictures too; they take 0.2 MB of disk each")
    arguments = parser.parse_args()
    print("| images | resident memory, MB |\n| ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for rows, memory in measure(Path(folder), arguments.images, arguments.step, arguments.pictures):
            print(f"| {rows} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
