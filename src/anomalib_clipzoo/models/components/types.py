# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Types of constructor arguments, with their bounds: jsonargparse checks them on the command line and in Python alike.

Upper bounds keep nonsense from allocating memory or running for ever; they are far beyond what is of use.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    NotEmptyStr,
    OpenUnitInterval,
    restricted_number_type,
)

if TYPE_CHECKING:
    Share = float
    PositiveShare = float
    Rate = float
    Count = int
    CountFrom0 = int
    PositiveNumber = float
    NonNegativeNumber = float
    Sigma = float
    Side = int
    Name = str
    Level = float
    Spread = float
else:
    Share = ClosedUnitInterval
    PositiveShare = restricted_number_type("PositiveShare", float, [(">", 0), ("<=", 1)])
    Rate = OpenUnitInterval
    Count = restricted_number_type("Count", int, [(">", 0), ("<=", 10**6)])
    CountFrom0 = NonNegativeInt
    PositiveNumber = restricted_number_type("PositiveNumber", float, [(">", 0), ("<", float("inf"))])
    NonNegativeNumber = restricted_number_type("NonNegativeNumber", float, [(">=", 0), ("<", float("inf"))])
    Sigma = restricted_number_type("Sigma", float, [(">=", 0), ("<=", 4096)])  # pixels
    Side = restricted_number_type("Side", int, [(">", 0), ("<=", 16384)])  # pixels
    Name = NotEmptyStr
    Level = ClosedUnitInterval
    Spread = restricted_number_type("Spread", float, [(">=", 0.001), ("<=", 1)])  # of pixels in 0..1

ImageSize = Side | Sequence[Side]
Layers = Sequence[Count]
Words = Sequence[str]
PixelMean = tuple[Level, Level, Level]  # of red, green and blue
PixelSpread = tuple[Spread, Spread, Spread]
