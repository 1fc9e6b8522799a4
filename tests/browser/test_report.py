# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The report in a browser: the threshold moves numbers and pictures, and nothing is loaded from elsewhere."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from anomalib_clipzoo.results.report import report
from tests.unit.results.runs import write_run

pytestmark = pytest.mark.slow

SCORES = {"bolt": ([0.05, 0.2, 0.3], [0.85, 0.7, 0.1]), "nut": ([0.15, 0.6, 0.25], [0.9, 0.4, 0.95])}


@pytest.fixture
def page(browser, tmp_path):
    """A report on two runs, opened."""
    write_run(tmp_path / "runs" / "a", SCORES, pictures=True)
    swapped = {name: (bad, good) for name, (good, bad) in SCORES.items()}
    write_run(tmp_path / "runs" / "b", swapped, pictures=True, model="Wrong")
    report([tmp_path / "runs"], tmp_path / "report", resamples=20)
    browser.get((tmp_path / "report" / "report.html").as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def number(page, name: str) -> int:
    return int(page.find_element(By.ID, name).text)


def move(page, threshold: float) -> None:
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    page.execute_script(script, page.find_element(By.ID, "threshold"), threshold)


def cards(page, category: int = 0) -> list[str]:
    """The captions of a category's cards, from left to right and downwards."""
    section = page.find_elements(By.CSS_SELECTOR, ".cards")[category]
    shown = [card for card in section.find_elements(By.CLASS_NAME, "card") if card.is_displayed()]
    shown.sort(key=lambda card: (round(card.location["y"]), card.location["x"]))
    return [card.text for card in shown]


def test_the_threshold_moves_the_numbers(page):
    assert (number(page, "false-alarms"), number(page, "misses"), number(page, "anomalous")) == (1, 2, 5)
    assert (number(page, "good"), number(page, "bad"), number(page, "total")) == (6, 6, 12)
    move(page, 0.05)  # a score has to be above it
    assert (number(page, "false-alarms"), number(page, "misses")) == (5, 0)
    move(page, 0.92)
    assert (number(page, "false-alarms"), number(page, "misses")) == (0, 5)
    rows = [row.text.split() for row in page.find_elements(By.CSS_SELECTOR, "#by-category tbody tr")]
    assert rows == [["bolt", "3", "0", "3", "3"], ["nut", "3", "0", "3", "2"]]
    page.find_element(By.ID, "reset").click()
    assert (number(page, "false-alarms"), number(page, "misses")) == (1, 2)


def test_the_threshold_relabels_and_sorts_the_pictures(page):
    assert cards(page, 1)[:2] == ["false alarm 0.600 normal/1.png", "missed 0.400 anomalous/1.png"]
    move(page, 0.2)
    assert cards(page, 1)[:3] == [
        *("false alarm 0.600 normal/1.png", "false alarm 0.250 normal/2.png", "found 0.400 anomalous/1.png")
    ]
    move(page, 0.8)
    assert cards(page)[:2] == ["missed 0.100 anomalous/2.png", "missed 0.700 anomalous/1.png"]
    page.find_element(By.ID, "wrong-only").click()
    assert cards(page) == ["missed 0.100 anomalous/2.png", "missed 0.700 anomalous/1.png"]


def test_the_line_stands_at_the_threshold(page):
    left, right = (float(page.execute_script(f"return {value}")) for value in ("AXIS.left", "AXIS.left + AXIS.width"))
    box = page.find_element(By.ID, "histogram").rect
    for threshold in (0.0, 0.25, 1.0):
        move(page, threshold)
        mark = page.find_element(By.ID, "mark").rect
        assert mark["x"] - box["x"] == pytest.approx((left + (right - left) * threshold) * box["width"], abs=2)


def test_pictures_show_the_image_and_its_heatmap(page):
    first = page.find_element(By.CLASS_NAME, "card")
    sources = [image.get_attribute("src") for image in first.find_elements(By.TAG_NAME, "img")]
    image, heatmap = (Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources)
    assert max(abs(value - 128) for value in image.getpixel((9, 9))) < 5
    red, green, _ = heatmap.getpixel((9, 9))
    score = float(re.search(r"\d\.\d{3}", first.text)[0])
    assert abs(red - 255 * score) < 8
    assert green < 8
    assert all(page.execute_script("return [...document.images].map(image => image.naturalWidth > 0)"))


def test_another_run_brings_its_own_pictures_and_threshold(page):
    move(page, 0.92)
    Select(page.find_element(By.ID, "run")).select_by_visible_text("Wrong on ToyAD")
    assert (number(page, "false-alarms"), number(page, "misses")) == (4, 5)
    Select(page.find_element(By.ID, "run")).select_by_visible_text("VcpClip on ToyAD")
    assert (number(page, "false-alarms"), number(page, "misses")) == (0, 5)  # as it was left


def test_nothing_is_loaded_from_elsewhere(page):
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} - {"chrome"} == {"file", "data"}  # its own first, empty page
