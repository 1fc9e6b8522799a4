# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How large an image may be that a stranger sends."""

MOST_PIXELS = 50_000_000
"""Decoded, an image of so many pixels takes 150 MB."""
