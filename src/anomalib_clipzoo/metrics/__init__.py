# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics for many categories at once, and pixel metrics of bounded memory."""

from anomalib_clipzoo.metrics.evaluator import PerCategoryEvaluator
from anomalib_clipzoo.metrics.per_category import PerCategory

__all__ = ["PerCategory", "PerCategoryEvaluator"]
