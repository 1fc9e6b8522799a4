# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Several processes run the tests, each on one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
