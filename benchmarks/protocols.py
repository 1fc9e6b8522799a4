# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the papers' protocols take on a GPU, computed from the size of their towers; nothing is run.

```
python benchmarks/protocols.py
```

Work is counted as matrix products of the image tower, in passes of it: the fewest that the method needs, each image
read once an epoch. Texts, maps, metrics and reading are left out. Memory is that of CLIP's weights and of what the
image tower keeps of a batch, in fp32. ``docs/protocols.md`` holds the table.
"""

from typing import NamedTuple

from anomalib_clipzoo.clip.config import CLIP_VOCABULARY, read_config

SPEED = 10e12  # operations a second in fp32, which cards with 20e12 on paper come to
GIB = 2**30
FLOAT = 4  # bytes
# Tensors of the tokens' size that one block makes: its input, both norms, queries, keys, values, what attention and its
# projection give, the hidden layer of four times the width before and after the activation, and the output.
OF_A_BLOCK = 17
VISA, CLINIC_DB, MVTEC_AD = 2162, 612, 1725  # annotated (test) images


class Protocol(NamedTuple):
    """A paper's protocol on MVTec AD.

    Attributes:
        name: The model.
        backbone: open_clip's name of the CLIP.
        size: Side of the images in pixels.
        learned: Number of images that are learned from, and epochs.
        passes: Passes of the tower for an image that is learned from, and for one that is tested.
        batch: Images at once in training (none: in the test).
        kept: Blocks of which everything is kept for the gradient.
    """

    name: str
    backbone: str
    size: int
    learned: tuple[int, int]
    passes: tuple[float, float]
    batch: int
    kept: int


PROTOCOLS = (
    Protocol("VcpClip", "ViT-L-14-336", 518, (VISA, 10), (1, 1), 32, 1),
    Protocol("AnomalyClip", "ViT-L-14-336", 518, (VISA, 15), (1, 1), 8, 1),
    # A plain pass, one with prompts, and the gradient's way back through that one.
    Protocol("AdaClip", "ViT-L-14-336", 518, (VISA + CLINIC_DB, 5), (3, 2), 1, 24),
    Protocol(
        "WinClipPlus", "ViT-B-16-plus-240", 240, (0, 0), (0, 12.8), 8, 1
    ),  # windows: 2,896 tokens to the image's 226
)


def parameters(backbone: str) -> int:
    """Return about how many parameters a CLIP has."""
    config = read_config(backbone)
    towers = (config["vision_cfg"], config["text_cfg"])
    return sum(12 * tower["layers"] * tower["width"] ** 2 for tower in towers) + CLIP_VOCABULARY * towers[1]["width"]


def tokens(protocol: Protocol) -> int:
    """Return the number of an image's tokens."""
    return (protocol.size // read_config(protocol.backbone)["vision_cfg"]["patch_size"]) ** 2 + 1


def operations(protocol: Protocol) -> float:
    """Return the operations of one pass of the image tower: projections and attention."""
    tower, count = read_config(protocol.backbone)["vision_cfg"], tokens(protocol)
    return tower["layers"] * (24 * count * tower["width"] ** 2 + 4 * count**2 * tower["width"])


def memory(protocol: Protocol) -> float:
    """Return the bytes of the weights and of what the blocks make and keep of a batch."""
    width = read_config(protocol.backbone)["vision_cfg"]["width"]
    made = protocol.batch * protocol.kept * OF_A_BLOCK * tokens(protocol) * width
    return FLOAT * (parameters(protocol.backbone) + made)


def table() -> str:
    """Write the table of docs/protocols.md."""
    lines = ["| model | learning | test on MVTec AD | memory |", "|---|---|---|---|"]
    for protocol in PROTOCOLS:
        images, epochs = protocol.learned
        seconds = operations(protocol) / SPEED
        learning = f"{images:,} images, {epochs} epochs: {images * epochs * protocol.passes[0] * seconds / 60:.0f} min"
        test = f"{MVTEC_AD * protocol.passes[1] * seconds / 60:.0f} min"
        learning = learning if images else "none"
        lines.append(f"| {protocol.name} | {learning} | {test} | {memory(protocol) / GIB:.1f} GiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
