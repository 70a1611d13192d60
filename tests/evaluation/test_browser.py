"""Pages of reports in Chromium, narrow and wide: nothing scrolls sideways but tables in their boxes, and no text runs."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.made import TASKS, made_report, rising

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian: apt-get install chromium"),
]

# The page is measured in frames of each width: a window cannot be as narrow as a phone everywhere.
_HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="measured"></pre><script>
addEventListener("load", () => {{
  const measured = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    const outside = [...page.querySelectorAll("body *")].filter(element =>
      element.getBoundingClientRect().right > width + 1 && !element.closest(".scroll, pre, svg"));
    return {{
      width, scrolls: page.documentElement.scrollWidth, title: page.title, boxes: page.querySelectorAll(".scroll").length,
      outside: outside.map(element => element.tagName + " " + element.textContent.slice(0, 60)),
      paper: getComputedStyle(page.body).backgroundColor, height: page.documentElement.scrollHeight,
    }};
  }});
  document.getElementById("measured").textContent = JSON.stringify(measured);
}});
</script></body>"""


def _measured(page: str, folder: Path, *, dark: bool = False) -> list[dict[str, Any]]:
    frame = '<iframe width="{}" height="900" style="border:0" srcdoc="{}"></iframe>'
    harness = folder / "harness.html"
    frames = "".join(frame.format(width, html.escape(page, quote=True)) for width in (400, 1400))
    harness.write_text(_HARNESS.format(frames=frames), encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    finished = subprocess.run(
        [*command, "--window-size=1500,1000", "--virtual-time-budget=5000", "--dump-dom", harness.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="measured">(.+?)</pre>', finished.stdout, re.DOTALL)
    assert found is not None, finished.stderr[-2000:]
    measured: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return measured


@pytest.mark.parametrize("kind", TASKS)
def test_a_page_fits_a_phone_and_a_desk(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    binary = kind == "binary"
    report = made_report(tiny_encoder, kind, teacher_noise=2.0, gold="teacher", measure_speed=binary, decided=binary)
    assert len(report.decisions) == (2 if binary else 0)
    report = report.model_copy(update={"curves": (rising(),), "model": "a/very/long/path" * 12})
    report.save(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for frame, width in zip(_measured(page, tmp_path), (400, 1400), strict=True):
        assert 0 <= width - frame["width"] <= 20  # a scroll bar may stand beside it
        assert frame["scrolls"] <= frame["width"], frame["outside"]
        assert frame["outside"] == [] and frame["boxes"] >= 4 and frame["title"].startswith("Student and teacher")


def test_a_page_follows_the_colour_scheme(tiny_encoder: Path, tmp_path: Path) -> None:
    report = made_report(tiny_encoder, "binary", teacher_noise=None)
    report.save(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    papers = [_measured(page, tmp_path, dark=dark)[0]["paper"] for dark in (False, True)]
    assert papers == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]


def test_a_page_that_is_too_wide_would_be_noticed(tmp_path: Path) -> None:
    wide = '<!DOCTYPE html><title>t</title><body style="margin:0"><div style="width:900px">x</div></body>'
    narrow_frame, wide_frame = _measured(wide, tmp_path)
    assert narrow_frame["scrolls"] == 900 and narrow_frame["outside"] == ["DIV x"]
    assert wide_frame["scrolls"] <= wide_frame["width"]
