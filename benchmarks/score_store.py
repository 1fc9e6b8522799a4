# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""``clipzoo score`` on a store of images: both engines, killed and resumed, rows compared.

```
python benchmarks/score_store.py --images 5000 --actors 2
```

The store holds links to 500 toy images; the model is VcpClip on the toy CLIP, which has learned nothing. The run with
Ray is killed as soon as a part of its table is there, and started again; then the other engine scores the same store,
and its memory is read as it goes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from predict_memory import make_folder

from anomalib_clipzoo.models.vcp_clip import VcpClip

PAUSE = 0.02
PATIENCE = 30
MEGABYTE = 1e6
EQUAL = ["label", "width", "height", "peak_x", "peak_y", "region_count", "problem"]


def read(output: Path) -> pd.DataFrame:
    """Read a table; parts that are not complete are left out."""
    parts = [_read_part(path) for path in sorted(output.glob("*.parquet"))]
    return pd.concat([pd.DataFrame({"image_path": []}), *parts]).sort_values("image_path").set_index("image_path")


def _read_part(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError):
        print(f"not complete: {path.name}")
        return pd.DataFrame()


def run(command: Sequence[str]) -> float:
    """Run a command to its end; return the seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def run_and_kill(command: Sequence[str], output: Path) -> None:
    """Run a command and kill it, with all processes that it started, when the first part of its table is there."""
    process = psutil.Popen(command)
    while not list(output.glob("*.parquet")):
        if process.poll() is not None:
            msg = "It ended before it could be killed."
            raise RuntimeError(msg)
        time.sleep(PAUSE)
    started = process.children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(started, timeout=PATIENCE)
    print(f"processes that outlived it and were killed: {len(left)}")
    for other in left:
        other.kill()


def watch(command: Sequence[str], output: Path) -> None:
    """Run a command, and print its memory as the table grows."""
    process, printed = psutil.Popen(command), 0
    while process.poll() is None:
        parts = len(list(output.glob("*.parquet")))
        if parts > printed:
            printed = parts
            print(f"memory with {parts} parts written: {process.memory_info().rss / MEGABYTE:.0f} MB", flush=True)
        time.sleep(PAUSE)


def main() -> int:
    """Run all and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--actors", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder / "photos", arguments.images)
        file = VcpClip(backbone="toy").save_weights(folder / "toy.safetensors")
        clipzoo = str(Path(sys.executable).with_name("clipzoo"))
        command = [clipzoo, "score", str(file), str(folder / "photos")]
        ray = [*command, str(folder / "ray"), "--engine", "ray", "--actors", str(arguments.actors)]
        run_and_kill(ray, folder / "ray")
        kept = len(read(folder / "ray"))
        print(f"killed with {kept} rows written")
        seconds = run(ray)
        print(f"resumed: {arguments.images - kept} images in {seconds:.0f} s")
        watch([*command, str(folder / "local"), "--rows_per_part", "500"], folder / "local")
        tables = [read(folder / name) for name in ("ray", "local")]
        unique = [table.index.is_unique and len(table) == arguments.images for table in tables]
        same = tables[0][EQUAL].equals(tables[1][EQUAL])
        difference = float(np.abs(tables[0]["score"] - tables[1]["score"]).max())
        print(f"each image in one row: ray {unique[0]}, local {unique[1]}")
        print(f"equal rows: {same}; largest difference of a score: {difference:.1e}")
        return 0 if all(unique) and same else 1


if __name__ == "__main__":
    sys.exit(main())
