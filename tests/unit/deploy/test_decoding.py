# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Images of strangers: what is read is read as ``predict`` reads it, and nothing else is read."""

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_clipzoo.clip.preprocess import resize_images
from anomalib_clipzoo.deploy.decoding import TooManyPixelsError, UnknownTypeError, decode_image, to_pixels
from anomalib_clipzoo.results.images import read_image

from .hostile import MOST_PIXELS, encoded, hostile_uploads
from .pictures import draw_pictures, to_batch

CONTENTS = {
    name: upload["content"]
    for name, upload in hostile_uploads().items()
    if upload.get("headers", {}).get("Content-Type") == "image/png" and name != "more bytes than allowed"
}


@pytest.mark.parametrize("name", CONTENTS)
def test_hostile_files_are_refused(name):
    with pytest.raises(ValueError) as error:
        decode_image(CONTENTS[name], MOST_PIXELS)
    kinds = {"more pixels than allowed": TooManyPixelsError, "SVG": UnknownTypeError, "GIF": UnknownTypeError}
    assert isinstance(error.value, kinds.get(name, ValueError))
    assert str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_images_are_read_as_predict_reads_them(kind, mode, tmp_path):
    content = encoded(draw_pictures(1)[0].convert(mode), kind)
    (tmp_path / "image").write_bytes(content)
    np.testing.assert_array_equal(decode_image(content), read_image(tmp_path / "image"))


def test_sixteen_bits_are_scaled(tmp_path):
    deep = Image.fromarray(np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16))
    assert np.asarray(decode_image(encoded(deep))).max() == 255


def test_pixels_are_those_of_the_models_own_resizing():
    (picture,) = draw_pictures(1, (123, 77))
    expected = resize_images(torch.from_numpy(to_batch([picture])), (64, 48))[0].numpy()
    np.testing.assert_array_equal(to_pixels(picture, (64, 48)) / np.float32(255), expected)
