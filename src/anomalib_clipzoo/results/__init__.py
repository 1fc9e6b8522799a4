# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Results that a person can act on: predictions as a table, pictures, tables of metrics, the report."""
