# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""QuickGELU with fewer passes over memory than open_clip's."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SLOPE = 1.702


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU, ``x * sigmoid(1.702 x)``, as the SiLU that it is.

    The hidden values of an MLP are the largest tensors of a tower: each pass over them costs.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run on tensors of any shape."""
        return functional.silu(SLOPE * hidden).div_(SLOPE)


def use_own_quick_gelu(clip: Any) -> None:
    """Put :class:`QuickGELU` in the place of open_clip's, in all blocks of both towers."""
    from open_clip.transformer import QuickGELU as OpenClips

    for module in list(clip.modules()):
        for name, part in module.named_children():
            if isinstance(part, OpenClips):
                setattr(module, name, QuickGELU())
