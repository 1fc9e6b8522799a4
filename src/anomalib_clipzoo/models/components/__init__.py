# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the Lightning modules of all papers share: the mixin, weights in and out, pre- and post-processor."""
