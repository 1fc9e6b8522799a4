# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules for zero- and few-shot anomaly detection, and images that know their category."""

from anomalib_clipzoo.data.category import CategoryBatch, CategoryDataset, CategoryItem, categories_of
from anomalib_clipzoo.data.cross_dataset import CrossDataset
from anomalib_clipzoo.data.multi_category import MultiCategory

__all__ = ["CategoryBatch", "CategoryDataset", "CategoryItem", "CrossDataset", "MultiCategory", "categories_of"]
