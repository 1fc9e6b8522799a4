# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Maps: smoothing as SciPy does it, within 0..1, and the same in exported files."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from anomalib_clipzoo.anomaly.maps import GaussianSmoothing, upsample

# Grids of patches, image sizes and smoothing: square or not, patches of 8 to 16 pixels, filters wider than the image.
SHAPES = [((5, 5), (70, 70), 4.0), ((8, 12), (64, 96), 0.7), ((37, 37), (518, 518), 8.0), ((2, 9), (32, 72), 20.0)]


def maps(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("grid", "size", "sigma"), SHAPES, ids=str)
def test_smoothing_is_scipys(grid, size, sigma):
    expected = gaussian_filter(maps(size).numpy(), (0, sigma, sigma))
    torch.testing.assert_close(
        GaussianSmoothing(size, sigma)(maps(size)), torch.from_numpy(expected), atol=1e-6, rtol=0
    )


class Enlarging(nn.Module):
    """From values of patches to smoothed maps, for all shapes and both ways to align corners."""

    def __init__(self) -> None:
        super().__init__()
        self.smoothing = nn.ModuleList(GaussianSmoothing(size, sigma) for _, size, sigma in SHAPES)

    def forward(self, *patches: torch.Tensor) -> list[torch.Tensor]:
        return [
            smoothing(upsample(values, grid, size, align_corners=align).sigmoid())
            for align in (True, False)
            for smoothing, values, (grid, size, _) in zip(self.smoothing, patches, SHAPES, strict=True)
        ]


@pytest.mark.slow
@torch.no_grad()
def test_exported_maps_are_the_same_at_all_sizes(tmp_path):
    import onnxruntime
    import openvino

    model, path = Enlarging(), tmp_path / "model.onnx"
    patches = [
        torch.randn(1, 3, rows * columns, generator=torch.Generator().manual_seed(1)) for (rows, columns), *_ in SHAPES
    ]
    torch.onnx.export(model, tuple(patches), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = [values.numpy() for values in patches]
    by_name = dict(zip([each.name for each in session.get_inputs()], inputs, strict=True))
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for outputs in (session.run(None, by_name), compiled(inputs).values()):
        for given, expected in zip(outputs, model(*patches), strict=True):
            torch.testing.assert_close(torch.from_numpy(given.copy()), expected, atol=2e-6, rtol=0)
