# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Write the published numbers into the models' pages, from ``published.csv``.

```
python tools/published_tables.py
```

A page gets a method's numbers between ``<!-- published numbers: METHOD -->`` and ``<!-- end of published numbers -->``.
"""

from pathlib import Path

from anomalib_clipzoo.results.parts import fill_parts
from anomalib_clipzoo.results.published import published_tables

PAGES = Path(__file__).parents[1] / "docs" / "models"


def filled(page: Path) -> str:
    """Return a page's text with the numbers as they should stand there."""
    return fill_parts(page.read_text(encoding="utf-8"), "published numbers", published_tables)


if __name__ == "__main__":
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page), encoding="utf-8")
