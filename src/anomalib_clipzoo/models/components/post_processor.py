# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The post-processor that all models share: thresholds that do not blur the ranking."""

import torch
from anomalib.post_processing import PostProcessor


class ProbabilityPostProcessor(PostProcessor):
    """anomalib's post-processor for scores that are probabilities.

    anomalib shifts scores by the validation data's threshold, divides by their range and cuts off at 0 and 1. On other
    data than those the threshold came from, as in zero-shot detection, much lies beyond that range and becomes a tie,
    which costs AUROC. Scores here are in 0..1 already, so it is enough to bend the scale: 0 to the threshold becomes 0
    to 0.5, the threshold to 1 becomes 0.5 to 1. The ranking stays as it is, and 0.5 decides.
    """

    @staticmethod
    def _normalize(
        preds: torch.Tensor | None,
        norm_min: torch.Tensor,
        norm_max: torch.Tensor,
        threshold: torch.Tensor,
    ) -> torch.Tensor | None:
        """Bend scores (any shape, 0..1) so that the threshold comes to 0.5; as they are where there is no threshold."""
        del norm_min, norm_max
        if preds is None:
            return None
        tiny = torch.finfo(threshold.dtype).eps
        middle = torch.where(threshold.isnan(), 0.5, threshold).clamp(tiny, 1 - tiny).to(preds.device)
        below, above = preds / (2 * middle), 1 - (1 - preds) / (2 * (1 - middle))
        return torch.where(preds < middle, below, above)
