# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Parts of Markdown pages that scripts write, between comments that name them."""

from __future__ import annotations

import re
from collections.abc import Callable


def fill_parts(page: str, kind: str, write: Callable[[str], str]) -> str:
    """Write the generated parts of a page anew.

    A part stands between ``<!-- KIND: NAME -->`` and ``<!-- end of KIND -->``, each on a line of its own.

    Args:
        page: The page's text.
        kind: What its parts are, such as ``"published numbers"``.
        write: What gives a part's text from its name.

    Raises:
        ValueError: If a part has no end.
    """
    part = re.compile(rf"(<!-- {kind}: ([^\n]+?) -->\n)(.*?)(<!-- end of {kind} -->)", re.DOTALL)
    if page.count(f"<!-- {kind}: ") != len(part.findall(page)):
        msg = f"A part of the kind {kind!r} has no end: it ends with the line <!-- end of {kind} -->."
        raise ValueError(msg)
    return part.sub(lambda found: f"{found[1]}\n{write(found[2]).strip()}\n\n{found[4]}", page)
