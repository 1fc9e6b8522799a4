# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Train the toy CLIP that is shipped in ``src/anomalib_clipzoo/assets``.

It draws images of the seen categories, trains open_clip's CLIP on them and their captions with the symmetric
contrastive loss, and writes the weights. Seeded; the two commands that made what is shipped are in docs/toy.md.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, tokenize
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_captions import Caption, compose, kept_texts

from anomalib_clipzoo.data.drawing import DEFECTS, IMAGE_SIZE, Visibility, draw
from anomalib_clipzoo.data.toy import SEEN_CATEGORIES

ASSETS = Path(__file__).parents[1] / "src" / "anomalib_clipzoo" / "assets"
FAINT = Visibility(strengths=(0.0, 1.0), min_pixels=14, min_contrast=0.045)
"""CLIP learns from fainter and smaller defects than ToyAD shows."""

ATTENTION = {False: SDPBackend.FLASH_ATTENTION, True: SDPBackend.MATH}
"""The fastest attention with and without half precision, which pays only on processors that compute in it."""

MAX_LOGIT_SCALE = math.log(100)
"""Upper bound of the learned temperature, as in CLIP (Sec. 2.5)."""


class DrawnScenes:
    """Scenes drawn once, each flawless and damaged, into a file that is mapped into memory.

    The twins differ in the defect alone, which makes each the other's hardest negative.

    Args:
        folder: Folder of the file.
        count: Number of scenes.
        seed: Seed of the drawing.
    """

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.labels = [self._label(index) for index in range(count)]
        file = folder / f"toy_{count}_{seed}.npy"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._draw(file, count, seed)
        self.pixels = np.load(file, mmap_mode="r")
        """``(N, H, W, 7)``: the flawless image, the damaged one, the mask."""

    @staticmethod
    def _label(index: int) -> tuple[str, str]:
        turn, category = divmod(index, len(SEEN_CATEGORIES))
        return SEEN_CATEGORIES[category], list(DEFECTS)[turn % len(DEFECTS)]

    def _draw(self, file: Path, count: int, seed: int) -> None:
        unfinished = file.with_suffix(".part")
        shape = (count, IMAGE_SIZE, IMAGE_SIZE, 7)
        pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
        for index, (category, defect) in enumerate(self.labels):
            flawless, _ = draw(category, None, np.random.default_rng([seed, index]))
            damaged, mask = draw(category, defect, np.random.default_rng([seed, index]), FAINT)
            pixels[index] = np.concatenate([flawless, damaged, 255 * mask[..., None].astype(np.uint8)], -1)
        pixels.flush()
        unfinished.rename(file)


class KeptPatches(nn.Module):
    """Drops patches while training, as FLIP does (arXiv 2212.00794), but rather those far from the damage.

    A caption that tells of a defect stays true of what is kept, and a step costs a fraction of the time. It takes the
    place of open_clip's patch dropout.

    Args:
        count: Patches to keep of each image; 0 keeps all.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.region = torch.empty(0)
        """``(B, N)``: 1 where an image's patches touch the damage, or its twin's."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, 1 + N, D)`` to ``(B, 1 + count, D)``."""
        if not self.count:
            return tokens
        kept = (self.region + torch.rand(self.region.shape)).topk(self.count).indices
        patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, :1], patches], 1)


def augment(scenes: Tensor) -> Tensor:
    """Flip, transpose, exchange and rescale colour channels at random, the same for twins.

    Args:
        scenes: ``(B, H, W, 7)``, uint8.

    Returns:
        ``(B, 7, H, W)`` in 0..1.
    """
    count = len(scenes)
    flips = torch.rand(3, count, 1, 1, 1) < 0.5
    pixels = scenes.permute(0, 3, 1, 2).float() / 255
    pixels = torch.where(flips[0], pixels.flip(-1), pixels)
    pixels = torch.where(flips[1], pixels.flip(-2), pixels)
    pixels = torch.where(flips[2], pixels.transpose(-1, -2), pixels)
    order = torch.rand(count, 3).argsort(1)
    order[torch.rand(count) < 0.5] = torch.arange(3)
    gain = 1 + 0.2 * (2 * torch.rand(count, 3) - 1)
    order = torch.cat([order, order + 3, torch.full((count, 1), 6)], 1)
    gain = torch.cat([gain, gain, torch.ones(count, 1)], 1)
    pixels = pixels.gather(1, order[:, :, None, None].expand_as(pixels))
    return (pixels * gain[:, :, None, None]).clamp(0, 1)


def normalise(pixels: Tensor) -> Tensor:
    """Normalise ``(B, 3, H, W)`` in 0..1 with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (pixels - mean) / std


class Vocabulary:
    """The kept part of CLIP's vocabulary, renumbered in order; 0 stands for every other token and for padding."""

    def __init__(self, texts: list[str]) -> None:
        ids = tokenize(texts).unique()
        self.ids = ids[ids > 0]

    def __call__(self, texts: list[str]) -> Tensor:
        """Tokens ``(B, L)``, cut after the longest text's last token."""
        tokens = tokenize(texts)
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1].contiguous()
        place = torch.searchsorted(self.ids, tokens)
        known = self.ids[place.clamp(max=len(self.ids) - 1)] == tokens
        return torch.where(known, place + 1, 0)


def build_model(config: dict, vocabulary: Vocabulary) -> CLIP:
    """Build open_clip's CLIP with token embeddings for the kept vocabulary only."""
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"], vocab_size=len(vocabulary.ids) + 1)
    model = CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])
    model.token_embedding = nn.Embedding(len(vocabulary.ids) + 1, text["width"], padding_idx=0)
    nn.init.normal_(model.token_embedding.weight.data[1:], std=0.02)
    return model


def load(model: CLIP, vocabulary: Vocabulary, path: Path) -> None:
    """Go on from weights that :func:`save` wrote."""
    state = {name: value.float() for name, value in load_file(path).items()}
    ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.weight")
    if not torch.equal(ids, vocabulary.ids):
        msg = f"{path} keeps other words than the captions have now: train from the start."
        raise ValueError(msg)
    padding = torch.zeros_like(rows[:1])
    model.load_state_dict(state | {"token_embedding.weight": torch.cat([padding, rows])})


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Text features ``(B, D)`` of cut token rows; the causal mask makes what follows the last token irrelevant."""
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    return model.ln_final(hidden[torch.arange(len(tokens)), tokens.argmax(1)]) @ model.text_projection


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, fits: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy; a caption of another image that is true of this one too is no negative.

    Args:
        images: Image features ``(B, D)``.
        texts: Text features ``(B, D)``.
        scale: Factor of the cosine similarity.
        fits: ``(B, B)``, True where caption j is true of image i.
    """
    logits = scale * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(fits & ~own, -math.inf)
    target = torch.arange(len(logits))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def truth_table(captions: list[Caption], labels: list[tuple[str, str | None]]) -> Tensor:
    """``(B, B)``, True where caption j is true of image i."""
    return torch.tensor([[caption.fits(*label) for caption in captions] for label in labels])


def parameter_groups(model: CLIP, weight_decay: float) -> list[dict]:
    """Weight decay for matrices only, as in CLIP."""
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embedding" in name]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate(step: int, steps: int, warmup: int = 200) -> float:
    """Factor of the learning rate: linear warm-up, then a half cosine to zero."""
    return min(step / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def train(model: CLIP, vocabulary: Vocabulary, data: DrawnScenes, args: argparse.Namespace) -> None:
    """Train for ``args.steps`` batches, the last ``args.full_steps`` of them on whole images."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step + 1, args.steps))
    rng, losses, start = np.random.default_rng(args.seed), [], time.perf_counter()
    model.visual.patch_dropout = KeptPatches(args.kept_patches)
    for step in range(1, args.steps + 1):
        if step > args.steps - args.full_steps:
            model.visual.patch_dropout.count = 0
        loss = batch_loss(model, vocabulary, data, rng, args.batch_size // 2)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        losses.append(loss.item())
        if step % args.log_every == 0 or step == args.steps:
            seconds, scale = time.perf_counter() - start, model.logit_scale.exp().item()
            mean_loss = np.mean(losses[-args.log_every :])
            print(f"step {step:6} loss {mean_loss:.4f} scale {scale:.1f} {seconds:.0f} s", flush=True)
            save(model, vocabulary, args.output)


def batch_loss(model: CLIP, vocabulary: Vocabulary, data: DrawnScenes, rng: Generator, count: int) -> Tensor:
    """Loss of the twins of ``count`` random scenes with freshly written captions."""
    chosen = np.sort(rng.choice(len(data.labels), count, replace=False))
    damaged = [data.labels[index] for index in chosen]
    labels = [(category, None) for category, _ in damaged] + damaged
    captions = [compose(rng, *label) for label in labels]
    scenes = augment(torch.from_numpy(data.pixels[chosen]))
    region = functional.adaptive_max_pool2d(scenes[:, 6:], model.visual.grid_size).flatten(1)
    model.visual.patch_dropout.region = region.repeat(2, 1)
    half = torch.cpu._is_avx512_bf16_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=half), sdpa_kernel(ATTENTION[half]):
        image_features = model.encode_image(normalise(torch.cat([scenes[:, :3], scenes[:, 3:6]])))
        text_features = encode_text(model, vocabulary([caption.text for caption in captions]))
    fits = truth_table(captions, labels)
    return contrastive_loss(image_features.float(), text_features.float(), model.logit_scale.exp(), fits)


def save(model: CLIP, vocabulary: Vocabulary, path: Path) -> None:
    """Write the weights in half precision; of the token embeddings the kept rows and their ids."""
    state = {
        name: value.detach().half().contiguous() for name, value in model.state_dict().items() if name != "attn_mask"
    }
    state["token_embedding.weight"] = state["token_embedding.weight"][1:].contiguous()
    state["token_embedding.ids"] = vocabulary.ids.int()
    unfinished = path.with_suffix(".part")
    save_file(state, unfinished)
    unfinished.rename(path)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ASSETS / "toy_clip.json", help="open_clip model config")
    parser.add_argument("--output", type=Path, default=ASSETS / "toy_clip.safetensors", help="weights to write")
    parser.add_argument("--init", type=Path, help="weights to go on from, written by this program")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/toy_clip"), help="folder for the drawn images")
    parser.add_argument("--scenes", type=int, default=24_000, help="scenes to draw (65 kB each on disk)")
    parser.add_argument("--scenes-seed", type=int, default=0, help="seed of the drawing")
    parser.add_argument("--steps", type=int, default=3_800, help="batches to train on")
    parser.add_argument("--full-steps", type=int, default=220, help="batches of whole images at the end")
    parser.add_argument("--kept-patches", type=int, default=36, help="patches kept of an image before that")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=7e-4, help="highest learning rate")
    parser.add_argument("--log-every", type=int, default=50, help="steps between reports and saved weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Draw, train, save."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vocabulary = Vocabulary(kept_texts())
    model = build_model(json.loads(args.config.read_text()), vocabulary)
    if args.init:
        load(model, vocabulary, args.init)
    train(model, vocabulary, DrawnScenes(args.cache, args.scenes, args.scenes_seed), args)


if __name__ == "__main__":
    main()
