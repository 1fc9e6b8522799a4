# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics for many categories at once, and pixel metrics of bounded memory."""

from anomalib_clipzoo.metrics.binned import BinnedAP, BinnedAUPRO, BinnedAUROC, BinnedF1Max
from anomalib_clipzoo.metrics.evaluator import AP, PerCategoryEvaluator
from anomalib_clipzoo.metrics.per_category import PerCategory

__all__ = ["AP", "BinnedAP", "BinnedAUPRO", "BinnedAUROC", "BinnedF1Max", "PerCategory", "PerCategoryEvaluator"]
