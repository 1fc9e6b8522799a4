# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What every child process has imported before its cases begin."""

import torch

import anomalib_clipzoo
from anomalib_clipzoo.clip import text

torch.set_num_threads(1)
MODELS = {name: getattr(anomalib_clipzoo, name) for name in anomalib_clipzoo.__all__}  # they are imported on first use
text.encode("object")  # reads the vocabulary
