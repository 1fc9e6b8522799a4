# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Uploads that no honest client sends, each as arguments of ``httpx.post`` by what is wrong with it."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from .pictures import draw_pictures

MOST_BYTES, MOST_PIXELS = 2**20, 300_000


def encoded(image: Image.Image, kind: str = "PNG", **arguments: Any) -> bytes:
    content = BytesIO()
    image.save(content, kind, **arguments)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says that it has very many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    return encoded(draw_pictures(1)[0], "JPEG", exif=exif)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def hostile_uploads() -> dict[str, dict[str, Any]]:
    """Make them."""
    picture = draw_pictures(1)[0]
    png, jpeg, tiff = encoded(picture), encoded(picture, "JPEG"), encoded(picture, "TIFF")
    raw = {
        "nothing": b"",
        "one byte": b"\0",
        "zeros": b"\0" * 5000,
        "text": b"<html>no image</html>",
        "a script": b"#!/bin/sh\nrm -rf /\n",
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "a zip archive": b"PK\x03\x04" + b"\0" * 100,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "PDF": b"%PDF-1.4\n",
        "PostScript, which another program would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "GIF": encoded(picture, "GIF"),
        "PNG's first bytes alone": png[:8],
        "PNG, cut short": png[: len(png) // 2],
        "PNG, a byte of its pixels changed": flipped(png, len(png) // 2),
        "PNG, a byte of its header changed": flipped(png, 20),
        "JPEG's first bytes alone": jpeg[:3],
        "JPEG, cut short": jpeg[: len(jpeg) // 2],
        "TIFF, cut short": tiff[:40],
        "TIFF, its directory elsewhere": tiff[:4] + struct.pack("<I", 2**31) + tiff[8:],
        "WebP, cut short": encoded(picture, "WEBP")[:30],
        "BMP of no size": b"BM" + b"\0" * 60,
        "more pixels than allowed": encoded(Image.new("L", (1000, 400))),
        "a bomb of 10^8 pixels": bomb(10_000, 10_000),
        "a bomb of 10^18 pixels": bomb(2**30, 2**30),
        "no pixels": bomb(0, 0),
        "floating-point numbers": encoded(Image.fromarray(np.random.default_rng(0).random((9, 9), np.float32)), "TIFF"),
        "to be turned": turned(),
        "more bytes than allowed": b"\0" * (MOST_BYTES + 1),
    }
    text = base64.b64encode(png).decode()
    uploads = {name: {"content": content, "headers": {"Content-Type": "image/png"}} for name, content in raw.items()}
    as_json = {"Content-Type": "application/json"}
    return uploads | {
        "no type": {"content": png},
        "a type that is no image": {"content": png, "headers": {"Content-Type": "text/plain"}},
        "JSON that is none": {"content": b"{", "headers": as_json},
        "JSON, deep": {"content": b"[" * 100_000, "headers": as_json},
        "JSON, not of text": {"content": b"\xff\xfe{", "headers": as_json},
        "JSON without an image": {"json": {"picture": text}},
        "JSON with a number": {"json": {"image": 7}},
        "JSON with a list": {"json": [text]},
        "base64 that is none": {"json": {"image": "?" + text}},
        "an address, which is not fetched": {"json": {"image": "http://127.0.0.1/image.png"}},
        "a form without a file": {"data": {"image": "words"}, "files": {"other": b"x"}},
        "a form with two files": {"files": [("image", png), ("image", png)]},
        "a form without its boundary": {"content": png, "headers": {"Content-Type": "multipart/form-data"}},
        "a form that ends early": {
            "content": b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    }
