# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""RsCIN: image scores averaged over the images that look most alike (paper, section 3.4)."""

from collections.abc import Sequence

import torch

ROWS = 4096  # images whose similarities to all others are in memory at once


def check_windows(windows: Sequence[int]) -> tuple[int, ...]:
    """Return the window sizes in ascending order; none switches rescoring off.

    Raises:
        ValueError: If one is below 1.
    """
    sizes = tuple(sorted(set(windows)))
    if sizes and sizes[0] < 1:
        msg = f"rescore_windows {list(windows)} must be numbers of images from 1, or [] to leave scores as they are."
        raise ValueError(msg)
    return sizes


def rescore(scores: torch.Tensor, features: torch.Tensor, windows: Sequence[int]) -> torch.Tensor:
    """Average each image's score over itself and the images most like it.

    Args:
        scores: Score of each image of a set, ``(N,)``.
        features: CLIP's image features of unit length, ``(N, E)``.
        windows: How many images a mean is over, the image itself included; the result is the mean over the windows.

    Returns:
        ``(N,)``, within the range of the scores.
    """
    if not windows:
        return scores
    widest = min(windows[-1], len(scores))
    nearest = [(rows @ features.T).topk(widest) for rows in features.split(ROWS)]
    means = [windowed_mean(similarity, scores[images], windows) for similarity, images in nearest]
    return torch.cat(means)


def windowed_mean(similarity: torch.Tensor, scores: torch.Tensor, windows: Sequence[int]) -> torch.Tensor:
    """Average scores by similarity over the first k of each row, for each window k, then over the windows.

    Args:
        similarity: Weights, descending, ``(B, K)``.
        scores: ``(B, K)``.
        windows: Numbers k in ascending order; those above K mean K.

    Returns:
        ``(B,)``.
    """
    means = (similarity * scores).cumsum(dim=1) / similarity.cumsum(dim=1)
    last = means.shape[1] - 1
    return means[:, [min(window - 1, last) for window in windows]].mean(dim=1)
