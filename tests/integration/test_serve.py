# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The inspection service, started as a user starts it."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from anomalib_clipzoo.deploy.scorer import load_scorer
from anomalib_clipzoo.results.regions import find_regions
from tests.unit.deploy.hostile import MOST_BYTES, MOST_PIXELS, encoded, hostile_uploads
from tests.unit.deploy.models import make_model
from tests.unit.deploy.pictures import draw_pictures

from .conftest import environment

pytestmark = pytest.mark.slow

CLIPZOO = Path(sys.executable).parent / "clipzoo"
TOKEN = "a-token-of-the-tests"
PATIENCE = 400  # a machine that is busy takes minutes to start a process
PICTURES = draw_pictures(12) + draw_pictures(3, (150, 60), seed=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return make_model(PICTURES).save_weights(tmp_path_factory.mktemp("weights") / "learned.safetensors")


@pytest.fixture(scope="module")
def findings(weights):
    """What the model says of the pictures without any service."""
    return load_scorer(weights, device="cpu").find(PICTURES)


@pytest.fixture(scope="module")
def process(weights, tmp_path_factory):
    """The service's first process."""
    port, folder = free_port(), tmp_path_factory.mktemp("service")
    limits = ("--max_megabytes", str(MOST_BYTES / 2**20), "--max_pixels", str(MOST_PIXELS), "--timeout", str(PATIENCE))
    options = ("--port", str(port), "--threshold", "0.5", *limits)
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with log.open("w") as file:
        process = psutil.Popen(
            [CLIPZOO, "serve", weights, *options],
            env={**environment(), "CLIPZOO_TOKEN": TOKEN},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    process.log = log
    process.url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(process), PATIENCE)
        yield process
    finally:
        children = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
    process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert "Traceback" not in log.read_text()
    assert not alive
    assert list(folder.iterdir()) == []


def is_ready(process) -> bool:
    assert process.is_running(), process.log.read_text()
    try:
        return httpx.get(f"{process.url}/health").status_code == 200
    except httpx.ConnectError:
        return False


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture(scope="module")
def client(process):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=process.url, headers=headers, timeout=PATIENCE) as client:
        yield client


def post(client, number: int, **arguments) -> httpx.Response:
    return client.post("/predict", files={"image": encoded(PICTURES[number])}, **arguments)


def check(answer: dict, finding) -> None:
    assert answer["score"] == pytest.approx(finding.score, abs=1e-6)
    assert answer["label"] == finding.label
    assert (answer["width"], answer["height"]) == finding.size
    # Which of equally high pixels it is depends on the last digits, and so on what is scored together.
    rows, columns = (
        [cell for cell in range(cells) if (2 * cell + 1) * pixels // (2 * cells) == answer[name]]
        for name, cells, pixels in zip(("peak_y", "peak_x"), finding.map.shape, finding.size[::-1], strict=True)
    )
    assert finding.map[np.ix_(rows, columns)].max() == pytest.approx(finding.map.max(), abs=1e-5)
    regions = find_regions(finding.mask, finding.size)
    assert [region["area"] for region in answer["regions"]] == [region.area for region in regions[:50]]


def test_it_answers_as_the_model_scores_in_three_forms_of_upload(client, findings):
    assert {finding.label for finding in findings} == {"normal", "anomalous"}
    for number, finding in enumerate(findings):
        check(post(client, number).json(), finding)
    content = encoded(PICTURES[0])
    as_body = client.post("/predict", content=content, headers={"Content-Type": "image/png"})
    as_text = client.post("/predict", json={"image": base64.b64encode(content).decode()})
    assert as_body.json() == as_text.json()
    check(as_body.json(), findings[0])
    assert as_body.json()["threshold"] == findings[0].threshold == 0.5
    assert (as_body.json()["model"], as_body.json()["class_name"]) == ("WinClipPlus", "screw")


def test_it_draws_on_request(client):
    plain = post(client, -1).json()
    drawn = post(client, -1, params={"overlay": "true"}).json()
    picture = Image.open(BytesIO(base64.b64decode(drawn.pop("overlay"))))
    assert drawn == plain
    assert picture.size == PICTURES[-1].size
    assert np.abs(np.asarray(picture, dtype=float) - np.asarray(PICTURES[-1])).mean() > 5
    alone = post(client, -1, headers={"Accept": "image/png"})
    assert alone.headers["Content-Type"] == "image/png"
    assert Image.open(BytesIO(alone.content)).tobytes() == picture.tobytes()


def test_hostile_uploads_get_4xx_and_harm_nobody(client, findings):
    """Also those whose images are scored together with them."""
    uploads = hostile_uploads()
    assert len(uploads) >= 30
    with ThreadPoolExecutor(8) as pool:
        hostile = {name: pool.submit(client.post, "/predict", **upload) for name, upload in uploads.items()}
        honest = [pool.submit(post, client, number) for number in range(len(PICTURES))]
    statuses = {name: future.result().status_code for name, future in hostile.items()}
    assert {name: status for name, status in statuses.items() if not 400 <= status < 500} == {}
    assert all(future.result().json()["detail"] for future in hostile.values())
    assert statuses["more bytes than allowed"] == statuses["more pixels than allowed"] == 413
    assert statuses["GIF"] == statuses["no type"] == 415
    assert client.get("/predict").status_code == 405
    for future, finding in zip(honest, findings, strict=True):
        check(future.result().json(), finding)


def test_a_body_without_a_length_is_limited_too(client):
    parts = (b"\0" * 2**16 for _ in range(100))
    assert client.post("/predict", content=parts, headers={"Content-Type": "image/png"}).status_code == 413


def test_the_token_is_asked_for(process):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        for path in ("/metrics", "/info", "/docs", "/openapi.json", "/"):
            assert httpx.get(process.url + path, headers=headers).status_code == 401
        assert httpx.post(process.url + "/predict", headers=headers, content=b"").status_code == 401
    assert httpx.get(process.url + "/health").status_code == 200


def test_many_clients_each_get_their_own_answer_and_are_counted(client, findings):
    def answered() -> float:
        text = client.get("/metrics").text
        return float((re.search(r'clipzoo_requests_total{status="200"} (\S+)', text) or [0, 0])[1])

    before, numbers = answered(), [number % len(PICTURES) for number in range(150)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: post(client, number).json(), numbers))
    for number, answer in zip(numbers, answers, strict=True):
        check(answer, findings[number])
    assert answered() - before == len(numbers)


def test_a_killed_worker_costs_no_answer(client, process, findings):
    def worker() -> psutil.Process:
        return max(process.children(recursive=True), key=lambda child: child.memory_info().rss)

    first = worker()
    numbers = [number % len(PICTURES) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(post, client, number) for number in numbers]
        os.kill(first.pid, signal.SIGKILL)
        answers = [future.result() for future in futures]
    assert {answer.status_code for answer in answers} == {200}
    for number, answer in zip(numbers, answers, strict=True):
        check(answer.json(), findings[number])
    assert worker().pid != first.pid


def test_a_port_in_use_and_a_broken_file_are_said_before_anything_starts(weights, process, tmp_path, capsys):
    from anomalib_clipzoo.command import main

    port = process.url.rpartition(":")[2]
    assert main(["serve", str(weights), "--port", port]) == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "missing.xml")]) == 1
    assert "There is no file" in capsys.readouterr().err
    (tmp_path / "broken.xml").write_text("no model")
    assert main(["serve", str(tmp_path / "broken.xml"), "--port", str(free_port())]) == 1
    assert "is damaged" in capsys.readouterr().err
