# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What MuSc's mutual scoring costs on top of the image tower, in image towers.

```
python benchmarks/musc_cost.py
```

ViT-L-14-336 at 518 pixels with random weights, on the CPU, one thread. The tower is open_clip's own, in single
precision. Mutual scoring is measured on the tokens of one layer with one neighbourhood, from stored tokens to patch
scores: the paper has twelve of these, which cost the same. Its time is a part for each image and a part for each pair
of images; both are measured on two small sets, from which larger ones follow. Time: processor seconds, which other
programs on the machine disturb least. A pass of the tower stands before and after each measurement; their median
counts.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.musc import MuScModel

NAME, SIZE = "ViT-L-14-336", 518
PARTS = 12  # layers times neighbourhoods in the paper


def bare_tower() -> torch.nn.Module:
    """Build open_clip's own image tower."""
    config = get_model_config(NAME)
    config["vision_cfg"]["image_size"] = SIZE
    return CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).eval().visual


def seconds(run: Callable[[], object]) -> float:
    """Time one pass."""
    start = time.process_time()
    run()
    return time.process_time() - start


def mutual_scoring(backbone: Backbone, count: int, precision: str) -> Callable[[], object]:
    """Return the scoring of one layer with one neighbourhood."""
    model = MuScModel(backbone, layers=[24], r_list=[3], set_size=None, distance_precision=precision)
    tokens = torch.randn(count, model.patch_count, backbone.vision.width).to(model.scoring.stored)
    return lambda: model.scoring.within([tokens], model.device)


def pairs(count: int) -> float:
    """Return the number of products: each pair of images, and each image with itself."""
    return count * (count + 1) / 2


@torch.no_grad()
def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 100, 200], help="sizes of sets to tell")
    parser.add_argument("--measured", type=int, nargs=2, default=[8, 32], help="sizes of the sets that are measured")
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"], help="distance_precision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(NAME, None, image_size=SIZE, antialias=False)
    tower, image = bare_tower(), torch.randn(1, 3, SIZE, SIZE)
    tower(image)
    towers = [seconds(lambda: tower(image))]
    rows = []
    for precision in arguments.precision:
        small, large = arguments.measured
        few, many = (seconds(mutual_scoring(backbone, count, precision)) for count in (small, large))
        a_pair = (many - few * large / small) / (pairs(large) - pairs(small) * large / small)
        an_image = (few - a_pair * pairs(small)) / small
        rows += [(precision, n, PARTS * (an_image + a_pair * pairs(n) / n)) for n in arguments.images]
        towers.append(seconds(lambda: tower(image)))
    print(f"tower: {median(towers):.2f} s an image, {min(towers):.2f} to {max(towers):.2f} s")
    print("| distance_precision | images in a set | seconds an image | towers an image |\n|---|---|---|---|")
    for precision, count, each in rows:
        print(f"| {precision} | {count} | {each:.2f} | {each / median(towers):.2f} |")


if __name__ == "__main__":
    main()
