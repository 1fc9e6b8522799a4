# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc: mutual scoring of the unlabelled images of a set."""

from .lightning_model import MuSc
from .torch_model import MuScModel

__all__ = ["MuSc", "MuScModel"]
