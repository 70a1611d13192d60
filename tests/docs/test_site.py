"""The built site in a browser: on a phone's width no page scrolls sideways, and every picture is there."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ROOT

pytestmark = pytest.mark.browser
WIDTH = 400
# Chromium's own windows are 500 wide or more: each page is opened in a frame of the wanted width.
_LOOK = """<body><pre id="told"></pre><script>
const pages = %s, told = {};
async function look(page) {
  const frame = document.createElement("iframe");
  frame.style = "width: %dpx; height: 900px; border: 0";
  const loaded = new Promise(done => frame.onload = done);
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const inside = frame.contentDocument;
  const missing = [...inside.images].filter(image => !image.naturalWidth).map(image => image.src);
  told[page] = [inside.documentElement.scrollWidth, inside.body.innerText.length, missing];
  frame.remove();
}
(async () => {
  for (const page of pages) await look(page);
  document.getElementById("told").textContent = JSON.stringify(told);
})();
</script></body>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("no MkDocs: pip install 'distilmatch[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_no_page_scrolls_sideways(site: Path, address: str, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium; Debian: apt-get install chromium")
    pages = sorted("/" + page.relative_to(site).as_posix() for page in site.rglob("index.html"))
    assert len(pages) > 20
    (site / "look.html").write_text(_LOOK % (json.dumps(pages), WIDTH), encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=120000", "--dump-dom", f"{address}/look.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    told = re.search(r'<pre id="told">(.+?)</pre>', shown, re.S)
    assert told is not None, "the pages were not opened in time"
    seen = json.loads(told[1])
    assert sorted(seen) == pages
    assert {page: width for page, (width, _, _) in seen.items() if width > WIDTH} == {}
    assert [page for page, (_, letters, _) in seen.items() if letters < 200] == []
    assert {page: missing for page, (_, _, missing) in seen.items() if missing} == {}
