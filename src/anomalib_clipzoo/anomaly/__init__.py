# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What several papers share about anomalies: prompts, losses, maps, references."""
