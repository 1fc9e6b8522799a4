# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What looking at files before a run costs, by format, and what resizing large images does.

```
python benchmarks/images.py
```

Files of one megapixel, the fastest of several looks at each; eight images of 12 megapixels to 518 x 518, and the memory
that it takes at its peak beyond that of the images (Linux only).
"""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from anomalib_clipzoo.clip.preprocess import resize_images
from anomalib_clipzoo.data.image_files import image_size, mask_size

FORMATS = {
    "PNG": (".png", {}),
    "JPEG": (".jpg", {"quality": 92}),
    "BMP": (".bmp", {}),
    "TIFF": (".tif", {}),
    "TIFF, LZW": (".tif", {"compression": "tiff_lzw"}),
    "WebP": (".webp", {}),
}
LOOKS = 5
COUNT, HEIGHT, WIDTH = 8, 3000, 4000
MIB = 2**20


def photograph() -> Image.Image:
    """Return a picture of one megapixel with the grain of a photograph's."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))


def milliseconds(look: Callable[[str], object], path: Path) -> float:
    """Return the time of the fastest of several looks at a file."""
    times = []
    for _ in range(LOOKS):
        start = time.perf_counter()
        look(str(path))
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def looks() -> None:
    """Print how long a file of each format is looked at, and a mask."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (ending, options) in FORMATS.items():
            path = Path(folder) / f"image{ending}"
            photograph().save(path, **options)
            print(f"{name}: {milliseconds(image_size, path):.1f} ms")
        path = Path(folder) / "mask.png"
        photograph().convert("L").point(lambda level: 255 * (level > 140)).save(path)
        print(f"PNG mask: {milliseconds(mask_size, path):.1f} ms")


def resizing() -> None:
    """Print what resizing eight large images takes."""
    torch.set_num_threads(1)
    images = torch.rand(COUNT, 3, HEIGHT, WIDTH)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    resize_images(images, (518, 518))
    seconds = time.process_time() - start
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
    held = images.numel() * images.element_size() / MIB
    print(f"Resizing {COUNT} images of 12 megapixels ({held:.0f} MiB): {seconds:.1f} s, {more:.0f} MiB more")


if __name__ == "__main__":
    looks()
    resizing()
