# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The page of ``clipzoo app`` in a browser, from an upload to the overlay that is downloaded."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from anomalib_clipzoo.data.toy import ensure_category
from anomalib_clipzoo.deploy.answers import draw_overlay
from anomalib_clipzoo.deploy.scorer import load_scorer
from tests.integration.conftest import environment

pytestmark = pytest.mark.slow
pytest.importorskip("gradio")

PATIENCE = 90


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The command, started in an empty folder, which it leaves empty."""
    folder, scratch = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("scratch")
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = psutil.Popen(
        [Path(sys.executable).parent / "clipzoo", "app", "--port", str(port), "--max_megabytes", "1"],
        env={**environment(), "TMPDIR": str(scratch), "HOME": str(folder)},
        cwd=folder,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    while not answers(url):
        assert process.is_running(), log.read_text()
        assert time.monotonic() < end
        time.sleep(0.3)
    yield url
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert [
        path for path in folder.rglob("*") if path.is_file() and path.parent.name != "matplotlib"
    ] == []  # its fonts
    assert list(scratch.iterdir()) == []


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    ensure_category(root, "screw")
    return root / "screw"


@pytest.fixture
def page(browser, service, tmp_path):
    (tmp_path / "downloads").mkdir()
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    )
    browser.get(service)
    wait(browser, lambda: element(browser, "go").is_displayed())
    return browser


def wait(page, condition):
    return WebDriverWait(page, PATIENCE, ignored_exceptions=(Exception,)).until(lambda _: condition())


def element(page, name: str, inside: str = ""):
    return page.find_element(By.CSS_SELECTOR, f"#{name} {inside}".strip())


def upload(page, name: str, paths: list[Path]) -> None:
    element(page, name, "input[type=file]").send_keys("\n".join(map(str, paths)))
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, f"#{name} .grid-container img")) == len(paths))


def slide(page, name: str, value: float) -> None:
    script = """
        const [slider, value] = arguments;
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(slider, value);
        for (const kind of ["input", "change", "pointerup"]) slider.dispatchEvent(new Event(kind, {bubbles: true}));
    """
    page.execute_script(script, element(page, name, "input[type=range]"), value)


def picture_of(page) -> str | None:
    found = page.find_elements(By.CSS_SELECTOR, "#heatmap img")
    return found[0].get_attribute("src") if found else None


def download(page, name: str, folder: Path, pattern: str) -> Path:
    known = set(folder.glob(pattern))
    link = wait(page, lambda: element(page, name) if element(page, name).is_enabled() else None)
    link.click()
    (path,) = wait(page, lambda: set(folder.glob(pattern)) - known)
    return path


def test_from_upload_to_downloaded_overlay(page, toy, tmp_path):
    images = [sorted((toy / "test" / kind).iterdir())[0] for kind in ("good", "hole")]
    references = sorted((toy / "train" / "good").iterdir())[:2]
    upload(page, "images", images)
    upload(page, "references", references)
    element(page, "go").click()
    source = wait(page, lambda: picture_of(page))

    folder = tmp_path / "normal"
    folder.mkdir()
    for path in references:
        (folder / path.name).symlink_to(path)
    scorer = load_scorer(
        model="WinClipPlus", backbone="toy", class_name="object", k_shot=2, few_shot_source=folder, device="cpu"
    )
    pictures = [Image.open(path).convert("RGB") for path in images]
    findings = scorer.find(pictures)

    table = pd.read_csv(download(page, "table-file", tmp_path / "downloads", "*.csv"))
    np.testing.assert_allclose(table["score"], [finding.score for finding in findings], atol=1e-6)
    assert list(table["label"]) == [finding.label for finding in findings]

    overlay = download(page, "overlay-file", tmp_path / "downloads", "*_overlay.png")
    expected = draw_overlay(pictures[0], findings[0])
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), np.asarray(expected))
    overlay.unlink()
    page.save_screenshot(str(tmp_path / "app.png"))

    slide(page, "opacity", 0)
    wait(page, lambda: picture_of(page) not in {source, None})
    slide(page, "threshold", 1)
    wait(page, lambda: "anomalous" not in element(page, "table").text)
    time.sleep(1)
    plain = Image.open(download(page, "overlay-file", tmp_path / "downloads", "*_overlay.png"))
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(pictures[0]))


def test_toy_images_can_be_had_and_what_is_wrong_is_said(page, tmp_path):
    element(page, "toy").click()
    wait(page, lambda: len(page.find_elements(By.CSS_SELECTOR, "#images .grid-container img")) == 8)
    element(page, "go").click()
    wait(page, lambda: picture_of(page))
    wait(page, lambda: "anomalous" in element(page, "table").text)
    page.save_screenshot(str(tmp_path / "toy.png"))
    page.refresh()
    wait(page, lambda: element(page, "go").is_displayed())
    element(page, "go").click()
    wait(page, lambda: "There is no image yet" in page.find_element(By.TAG_NAME, "body").text)


def test_uploads_are_limited(service):
    files = {"files": ("large.png", b"\0" * (2 * 2**20))}
    assert httpx.post(f"{service}/gradio_api/upload", files=files).status_code == 413


def test_nothing_is_loaded_from_elsewhere(page, service):
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    kinds = {url for url in asked if not url.startswith((service, "data:", "blob:", "chrome:"))}
    assert kinds == set()
