# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""``clipzoo serve`` under load: are all requests answered, and rightly, how fast, and does memory stay?

```
python benchmarks/serve_load.py --requests 2000 --clients 32
```

The clients ask at the same time, each for one image after the other. Every answer is compared with what the same model
says without a service. By default, that is VcpClip on the toy CLIP, which has learned nothing; ``--file`` takes any
file that can be served, and what else is given goes to ``clipzoo serve``.
"""

import argparse
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from anomalib_clipzoo.data.drawing import draw
from anomalib_clipzoo.data.toy import CATEGORIES
from anomalib_clipzoo.deploy.decoding import decode_image
from anomalib_clipzoo.deploy.scorer import Finding, load_scorer
from anomalib_clipzoo.models.vcp_clip import VcpClip

PICTURES = 200
TOLERANCE = 1e-5
MEGABYTE = 1e6
PARTS = 5
PATIENCE = 120


def draw_pictures(count: int) -> list[bytes]:
    """Draw toy images, as PNG files."""
    files = []
    for number in range(count):
        pixels, _ = draw(CATEGORIES[number % len(CATEGORIES)], None, np.random.default_rng(number))
        content = BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        files.append(content.getvalue())
    return files


def start(file: Path, options: Sequence[str]) -> tuple[psutil.Popen, str]:
    """Start the service, and wait until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clipzoo = Path(sys.executable).with_name("clipzoo")
    process, url = psutil.Popen([clipzoo, "serve", file, "--port", str(port), *options]), f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.is_running():
        try:
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return process, url
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    msg = "The service did not start."
    raise RuntimeError(msg)


def memory(process: psutil.Popen) -> float:
    """Memory of all processes of the service, in megabytes."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / MEGABYTE


def is_right(answer: httpx.Response, finding: Finding) -> bool:
    """Compare an answer with what the model says."""
    content = answer.json()
    return abs(content["score"] - finding.score) < TOLERANCE and content["label"] == finding.label


def plain_loop(file: Path, pictures: Sequence[bytes]) -> tuple[list[Finding], float]:
    """Score one image after the other without a service; return what was found and images per second."""
    scorer = load_scorer(file, device="cpu")
    started = time.perf_counter()
    findings = [scorer.find([decode_image(content)])[0] for content in pictures]
    return findings, len(pictures) / (time.perf_counter() - started)


def main() -> int:
    """Run the load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a model's file")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.file
        if file is None:
            file = VcpClip(backbone="toy").save_weights(Path(folder) / "toy.safetensors")
        pictures = draw_pictures(min(PICTURES, arguments.requests))
        findings, loop = plain_loop(file, pictures)
        process, url = start(file, options)
        try:
            return _load(process, url, pictures, findings, loop, arguments.requests, arguments.clients)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _load(
    process: psutil.Popen,
    url: str,
    pictures: list[bytes],
    findings: list[Finding],
    loop: float,
    requests: int,
    clients: int,
) -> int:
    client = httpx.Client(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=clients))
    waits: list[float] = []

    def ask(number: int) -> tuple[int, bool]:
        started = time.perf_counter()
        answer = client.post("/predict", content=pictures[number], headers={"Content-Type": "image/png"})
        waits.append(time.perf_counter() - started)
        return answer.status_code, answer.status_code == httpx.codes.OK and is_right(answer, findings[number])

    results: list[tuple[int, bool]] = []
    spent, before = 0.0, memory(process)
    print(f"memory before the first request: {before:.0f} MB")
    with ThreadPoolExecutor(clients) as pool:
        for part in range(PARTS):
            numbers = [
                number % len(pictures) for number in range(part * requests // PARTS, (part + 1) * requests // PARTS)
            ]
            started = time.perf_counter()
            results += pool.map(ask, numbers)
            spent += time.perf_counter() - started
            print(f"memory after {len(results)} requests: {memory(process):.0f} MB", flush=True)
    right = sum(correct for _, correct in results)
    print(f"requests: {requests} of {clients} clients; statuses: {dict(Counter(status for status, _ in results))}")
    print(f"answered rightly: {right}; lost: {requests - len(results)}; wrong: {len(results) - right}")
    print(f"service: {requests / spent:.1f} images/s; plain loop: {loop:.1f} images/s")
    print(f"time to the answer: median {np.median(waits) * 1e3:.0f} ms, 95 % {np.quantile(waits, 0.95) * 1e3:.0f} ms")
    return 0 if right == requests else 1


if __name__ == "__main__":
    sys.exit(main())
