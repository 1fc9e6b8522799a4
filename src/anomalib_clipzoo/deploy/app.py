# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The subcommand ``clipzoo app``: a page to try a model on."""

from __future__ import annotations

from typing import Literal

from .limits import MOST_PIXELS


def app(
    model: str = "WinClipPlus",
    weights: str | None = None,
    backbone: str = "toy",
    class_name: str = "",
    host: Literal["127.0.0.1", "0.0.0.0"] = "127.0.0.1",
    port: int = 7860,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    max_megabytes: int = 20,
    max_pixels: int = MOST_PIXELS,
    browser: bool = False,
) -> None:
    """Show a page in the browser to try models on images, with reference images, heatmaps and a threshold to move.

    As it is, it shows a model that needs no learning on the toy CLIP, which is part of the package. Other machines
    cannot see the page, and nothing is written outside a temporary folder, which goes when the command ends. Needs the
    extra "app".

    Args:
        model: Model that the page begins with.
        weights: File that it begins with: a checkpoint, learned weights or an exported model.
        backbone: CLIP that it begins with: an open_clip name or "toy", and after a comma its pretrained tag or file of
            weights, if these are not to be the paper's: "ViT-L-14-336, openai".
        class_name: Words for what images show that it begins with; where there are none, those of the weights, else
            "object".
        host: Address that it listens at: this machine alone, or all of its networks. Who sees the page can have the
            program read any file as weights.
        port: Port that it listens at, from 1024.
        device: Where models run.
        max_megabytes: Largest file.
        max_pixels: Largest image.
        browser: Whether to open the page.
    """
    from anomalib_clipzoo.deploy.extras import needs
    from anomalib_clipzoo.deploy.serve import check_free

    check_free(host, port)
    with needs("app"):
        from anomalib_clipzoo.deploy.page import Start, show
    start = Start(model, weights, backbone, class_name)
    show(
        start,
        host=host,
        port=port,
        device=device,
        most_bytes=max_megabytes * 2**20,
        most_pixels=max_pixels,
        open_it=browser,
    )
