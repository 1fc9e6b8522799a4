# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Which images score each other."""

import math
import random
from collections.abc import Hashable, Sequence


def check_size(set_size: int | None) -> int | None:
    """Return how many images are in a set at most, or say why that does not work.

    Raises:
        ValueError: If one image would be alone.
    """
    if set_size is not None and set_size < 2:
        msg = f"set_size {set_size} must be at least 2 images, or None for sets of any size."
        raise ValueError(msg)
    return set_size


def divide(kinds: Sequence[Hashable], at_most: int | None, seed: int) -> list[list[int]]:
    """Divide images evenly into sets, images of each kind evenly too.

    Args:
        kinds: What each image counts as: the folder of its defect, as in the paper's code, or all the same where nobody
            knows.
        at_most: So many images are in a set; ``None`` for all in one.
        seed: Seed of the division; the global random numbers are left alone.

    Returns:
        The images' numbers of each set.
    """
    count = 1 if at_most is None else math.ceil(len(kinds) / at_most)
    if count == 1:
        return [list(range(len(kinds)))]
    sets: list[list[int]] = [[] for _ in range(count)]
    shuffle = random.Random(seed).shuffle
    for kind in dict.fromkeys(kinds):
        members = [number for number, other in enumerate(kinds) if other == kind]
        shuffle(members)
        for place, number in enumerate(members):
            sets[place % count].append(number)
    return sets
