# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The reproductions in ``docs/upstream.md`` print what the page says, with the patches and without them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "upstream.md").read_text(encoding="utf-8")
TINY, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
REPRODUCTIONS = re.findall(
    r"```python\n((?:(?!```).)*)```\n\n"
    r"Expected:\n\n```text\n(.*?)\n```\n\n"
    r"Actual:\n\n```text\n(.*?)\n```",
    PAGE,
    re.DOTALL,
)
# Runs each reproduction in a folder of its own and tells its last line, or what it raised.
RUNNER = """
import contextlib, io, json, os, sys, tempfile, warnings
warnings.simplefilter("ignore")
import anomalib.cli

def last_line(code):
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(code, {})
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0].replace(os.getcwd(), "...")
    return output.getvalue().splitlines()[-1]

print("\\n" + json.dumps([last_line(code) for code in json.load(sys.stdin)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("patched", [True, False], ids=["patched", "as it comes"])
def test_reproductions(patched, tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "ANOMALIB_CLIPZOO_AUTOLOAD": str(int(patched))}
    codes = json.dumps([code for code, _, _ in REPRODUCTIONS])
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    result = subprocess.run(command, env=environment, input=codes, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed == [expected if patched else actual for _, expected, actual in REPRODUCTIONS]


def test_every_section_has_a_reproduction():
    assert len(REPRODUCTIONS) == PAGE.count("Expected:") == PAGE.count("Actual:") == 13
