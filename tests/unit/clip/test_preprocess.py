# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Resizing is Pillow's to the last bit, by whichever way: main memory, another device, an exported graph."""

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from anomalib_clipzoo.clip import preprocess
from anomalib_clipzoo.clip.filter_weights import HALF, KERNELS, filter_weights, filter_weights_in_single
from anomalib_clipzoo.clip.preprocess import normalize, resize_images, resize_masks

SIZES = [
    ((48, 40), (70, 70)),
    ((311, 97), (64, 96)),
    ((7, 500), (224, 32)),
    ((1, 1), (16, 16)),
    ((130, 130), (130, 65)),
]


def pillow(images: torch.Tensor, size: tuple[int, int], kernel: Resampling) -> torch.Tensor:
    """Resize 8-bit images as files are, the horizontal axis first."""
    levels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    across = [Image.fromarray(each).resize((size[1], each.shape[0]), kernel) for each in levels]
    resized = [np.asarray(each.resize((size[1], size[0]), kernel)) for each in across]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_all_ways_give_pillows_pixels(before, after):
    images = torch.rand(2, 3, *before, generator=torch.Generator().manual_seed(0))
    expected = pillow(images, after, Resampling.BICUBIC)
    assert torch.equal(resize_images(images, after), expected)
    for lines in (preprocess._filter_in_bands, preprocess._filter_whole):
        assert torch.equal(preprocess._resize_by_matrices(images, after, Resampling.BICUBIC, lines), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(("length", "target"), [(80, 96), (97, 518), (2000, 518), (17000, 518), (518, 518), (1, 16)])
def test_weights_need_no_double_precision(length, target, kernel):
    expected = filter_weights(torch.arange(target), torch.arange(length)[:, None], length, target, kernel, 0)
    high, low = filter_weights_in_single(length, target, kernel, expected.device)
    differences = (high.double() * HALF + low - expected).abs()
    assert differences.max() <= 1
    assert differences.sum() <= 0.01 * expected.count_nonzero()  # of the last of 22 bits


def test_a_batch_may_be_empty():
    assert resize_images(torch.empty(0, 3, 40, 50), (8, 16)).shape == (0, 3, 8, 16)


def test_masks_are_cut_at_one_half():
    masks = torch.rand(2, 60, 45, generator=torch.Generator().manual_seed(1)) > 0.6
    expected = pillow(masks[:, None].float().expand(-1, 3, -1, -1), (20, 30), Resampling.BILINEAR)[:, 0] > 0.5
    assert torch.equal(resize_masks(masks, (20, 30)), expected)


def test_more_pixels_than_pillow_allows_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"50x40 pixels cannot be resized.*PIL.Image.MAX_IMAGE_PIXELS"):
        resize_images(torch.rand(1, 3, 40, 50), (8, 8))


class Preparation(torch.nn.Module):
    """What a model does to images before it looks at them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return normalize(resize_images(images, (70, 70)))


def test_graphs_can_be_traced_one_after_the_other():
    shapes = ({2: torch.export.Dim("height"), 3: torch.export.Dim("width")},)
    images = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        program = torch.export.export(Preparation().eval(), (torch.zeros(1, 3, 20, 22),), dynamic_shapes=shapes)
        torch.testing.assert_close(program.module()(images), Preparation()(images), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_exported_pixels(tmp_path):
    import onnxruntime
    import openvino

    batch, height, width = (torch.export.Dim(name) for name in ("batch_size", "height", "width"))
    path = tmp_path / "preparation.onnx"
    torch.onnx.export(
        Preparation().eval(),
        (torch.zeros(2, 3, 2, 2),),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: batch, 2: height, 3: width},),
        input_names=["input"],
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in [(50, 60), (70, 70), (64, 100), (100, 64), (300, 211), (600, 800), (33, 2000)]:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
        expected = Preparation()(images)
        for given in (session.run(None, {"input": images.numpy()})[0], compiled(images.numpy())[0].copy()):
            torch.testing.assert_close(torch.from_numpy(given), expected, atol=1e-5, rtol=0)
