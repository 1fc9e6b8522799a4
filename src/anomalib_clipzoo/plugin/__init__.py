# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How anomalib finds the models and datamodules that other packages bring, and what is mended in anomalib itself.

``import torch`` calls :func:`autoload` through the entry-point group ``torch.backends``, where an exception would break
torch for the whole environment. So what runs there needs the standard library alone, and what anomalib, a plug-in or a
patch does wrong is logged, not raised. The parts:

* :mod:`.hosts` waits for anomalib's packages to be imported, and knows what each of them gets;
* :mod:`.discovery` registers the plug-ins of the entry-point groups ``anomalib.models`` and ``anomalib.data``;
* :mod:`.patches` mends what anomalib gets wrong, for every model.

The whole story is in ``docs/plugin.md``.
"""

import os

from .hosts import register

__all__ = ["SWITCH", "autoload", "register"]

SWITCH = "ANOMALIB_CLIPZOO_AUTOLOAD"
"""Environment variable; ``0`` keeps :func:`autoload` from doing anything."""


def autoload() -> None:
    """Do what :func:`register` does unless :data:`SWITCH` says no; this is what ``import torch`` calls."""
    if os.environ.get(SWITCH) != "0":
        register()
