# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Measure the toy CLIP: zero-shot image AUROC by text, and how much of a defect's place its patch tokens tell.

```
python tools/evaluate_toy_clip.py
```

The probe is one linear layer on the L2-normalised patch tokens of several blocks, trained on the test images of the
seen categories and measured on those of the unseen ones.
"""

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from open_clip import tokenize
from open_clip.model import CLIP
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from train_toy_clip import ASSETS, normalise

from anomalib_clipzoo.anomaly.prompts import NORMAL_STATES, WINCLIP_ABNORMAL_STATES, WINCLIP_TEMPLATES, compose
from anomalib_clipzoo.clip.files import load_clip_weights
from anomalib_clipzoo.data.toy import SEEN_CATEGORIES, UNSEEN_CATEGORIES, ensure_category


def load_model(config: Path, weights: Path | None) -> CLIP:
    """Build the toy CLIP with open_clip; random weights without a file."""
    model = CLIP(**json.loads(config.read_text())).eval()
    if weights is not None:
        load_clip_weights(model, "toy", weights)
    return model


def read_test_images(root: Path, category: str) -> tuple[Tensor, Tensor]:
    """Normalised test images ``(N, 3, H, W)`` and masks ``(N, H, W)`` of a category."""
    ensure_category(root, category)
    images, masks = [], []
    for path in sorted((root / category / "test").glob("*/*.png")):
        images.append(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        mask = root / category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        masks.append(cv2.imread(str(mask), 0) > 0 if mask.exists() else np.zeros(images[-1].shape[:2], bool))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return normalise(pixels), torch.from_numpy(np.stack(masks))


@torch.no_grad()
def encode_images(model: CLIP, images: Tensor, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Image features ``(N, D)`` and the normalised patch tokens of `layers` side by side ``(N, P, layers * width)``."""
    outputs: dict[int, Tensor] = {}
    blocks = model.visual.transformer.resblocks
    hooks = [
        blocks[layer - 1].register_forward_hook(lambda _m, _i, out, layer=layer: outputs.__setitem__(layer, out))
        for layer in layers
    ]
    features = model.encode_image(images, normalize=True)
    for hook in hooks:
        hook.remove()
    tokens = [functional.normalize(outputs[layer][:, 1:], dim=-1) for layer in layers]
    return features, torch.cat(tokens, -1)


@torch.no_grad()
def state_direction(model: CLIP, name: str) -> Tensor:
    """Abnormal minus normal text feature ``(D,)`` of WinCLIP's prompt ensemble."""
    means = []
    for states in (NORMAL_STATES, WINCLIP_ABNORMAL_STATES):
        texts = compose(states, WINCLIP_TEMPLATES, name)
        means.append(functional.normalize(model.encode_text(tokenize(texts)).mean(0), dim=0))
    return means[1] - means[0]


def train_probe(tokens: Tensor, masks: Tensor, epochs: int = 30) -> torch.nn.Linear:
    """Logistic regression of the defect's share of each patch."""
    share = functional.adaptive_avg_pool2d(masks.float()[:, None], round(tokens.shape[1] ** 0.5)).flatten(1)
    target = (share * 4).clamp(max=1)
    torch.manual_seed(0)
    probe = torch.nn.Linear(tokens.shape[-1], 1)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.02)
    for _ in range(epochs):
        for rows in torch.randperm(len(tokens)).split(32):
            loss = functional.binary_cross_entropy_with_logits(probe(tokens[rows])[..., 0], target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return probe


@torch.no_grad()
def probe_map(probe: torch.nn.Linear, tokens: Tensor, size: int) -> Tensor:
    """Anomaly maps ``(N, size, size)`` of a probe."""
    side = round(tokens.shape[1] ** 0.5)
    return functional.interpolate(probe(tokens)[..., 0].view(-1, 1, side, side), size, mode="bilinear")[:, 0].sigmoid()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ASSETS / "toy_clip.json")
    parser.add_argument("--weights", type=Path, default=ASSETS / "toy_clip.safetensors")
    parser.add_argument("--random", action="store_true", help="measure random weights instead, for comparison")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 4, 5, 6])
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "toy_ad")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = load_model(args.config, None if args.random else args.weights)
    encoded = {}
    for category in (*SEEN_CATEGORIES, *UNSEEN_CATEGORIES):
        images, masks = read_test_images(args.root, category)
        encoded[category] = (*encode_images(model, images, args.layers), masks)
    seen_tokens = torch.cat([encoded[name][1] for name in SEEN_CATEGORIES])
    probe = train_probe(seen_tokens, torch.cat([encoded[name][2] for name in SEEN_CATEGORIES]))
    print(f"{'category':16}{'image, own name':>18}{'image, object':>16}{'probe, image':>14}{'probe, pixel':>14}")
    rows = {name: measure(model, probe, name, *encoded[name]) for name in encoded}
    for name, row in rows.items():
        print(f"{name:16}{row[0]:18.3f}{row[1]:16.3f}{row[2]:14.3f}{row[3]:14.3f}")
    for title, names in (("seen", SEEN_CATEGORIES), ("unseen", UNSEEN_CATEGORIES)):
        row = np.mean([rows[name] for name in names], 0)
        print(f"{'mean ' + title:16}{row[0]:18.3f}{row[1]:16.3f}{row[2]:14.3f}{row[3]:14.3f}")


def measure(
    model: CLIP, probe: torch.nn.Linear, name: str, features: Tensor, tokens: Tensor, masks: Tensor
) -> list[float]:
    """Image AUROC by text with the own name and with "object", image and pixel AUROC of the probe."""
    labels = masks.flatten(1).any(1)
    maps = probe_map(probe, tokens, masks.shape[-1])
    scores = [features @ state_direction(model, word) for word in (name, "object")] + [maps.flatten(1).amax(1)]
    return [roc_auc_score(labels, score) for score in scores] + [roc_auc_score(masks.flatten(), maps.flatten())]


if __name__ == "__main__":
    main()
