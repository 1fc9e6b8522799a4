# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Zero- and few-shot anomaly detection with CLIP, as anomalib models.

Importing this package imports neither torch nor anomalib: models and datamodules are imported when they are first
asked for. It registers all plug-ins with anomalib, as ``import torch`` does by itself (see :mod:`.plugin`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .plugin import autoload

if TYPE_CHECKING:
    from .data.cross_dataset import CrossDataset
    from .data.multi_category import MultiCategory
    from .data.toy import ToyAD
    from .models.ada_clip import AdaClip
    from .models.anomaly_clip import AnomalyClip
    from .models.april_gan import AprilGan
    from .models.crane import Crane
    from .models.musc import MuSc
    from .models.vcp_clip import VcpClip
    from .models.win_clip_plus import WinClipPlus

__version__ = "0.1.0"
__all__ = [
    "AdaClip",
    "AnomalyClip",
    "AprilGan",
    "Crane",
    "CrossDataset",
    "MuSc",
    "MultiCategory",
    "ToyAD",
    "VcpClip",
    "WinClipPlus",
]

_MODULES = {
    "AdaClip": ".models.ada_clip",
    "AnomalyClip": ".models.anomaly_clip",
    "AprilGan": ".models.april_gan",
    "Crane": ".models.crane",
    "CrossDataset": ".data.cross_dataset",
    "MuSc": ".models.musc",
    "MultiCategory": ".data.multi_category",
    "ToyAD": ".data.toy",
    "VcpClip": ".models.vcp_clip",
    "WinClipPlus": ".models.win_clip_plus",
}


def __getattr__(name: str) -> type:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


autoload()
