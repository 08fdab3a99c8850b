"""The page in a real browser: nothing overflows, contrast is AA, no error in the console, columns can be sorted."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pages import full

from yoloprune.reporting import run_report
from yoloprune.reporting.facts import Report

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]

PROBE = """
window.addEventListener("load", () => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *:not(script):not(style)")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.tagName === "title" || e.classList.contains("name")) continue;  // names on images have an outline
    const style = getComputedStyle(e), ink = numbers(e.ownerSVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push([e.textContent.slice(0, 30), ratio]);
  }
  const root = document.documentElement, cells = () => [...document.querySelectorAll("table.sortable tbody tr")]
    .slice(0, 3).map((r) => r.cells[1].textContent);
  const before = cells();
  const heads = [...document.querySelectorAll("table.sortable th button")];
  heads[1]?.focus();
  const focused = document.activeElement === heads[1];
  heads[1]?.click(); const up = cells();
  heads[1]?.click(); const down = cells();
  const boxes = [...document.querySelectorAll(".scroll")];
  parent.postMessage({
    wide: root.scrollWidth - innerWidth, faint, before, up, down, focused, dark: light(ground(document.body)) < 0.2,
    unreachable: boxes.filter((b) => b.tabIndex !== 0).length,
    pixels: [...document.querySelectorAll("svg image")].length,
  }, "*");
});
"""


def looked_at(report: Report, width: int, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """What the page says of itself in a frame of that width; its console must be silent."""
    page = run_report.page(report).replace("</body>", f"<script>{PROBE}</script></body>")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    hear = "addEventListener('message', (e) => { document.title = JSON.stringify(e.data); })"
    file = folder / "frame.html"
    file.write_text(
        f"<!doctype html><meta charset=utf-8><body style='margin:0'><script>{hear}</script>{frame}", "utf-8"
    )
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--virtual-time-budget=4000", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
            *(("--blink-settings=preferredColorScheme=0",) if dark else ()),
            *(f"--window-size={max(width, 800)},1000", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search("<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:300]
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_fits_and_can_be_read(width: int, dark: bool, tmp_path: Path) -> None:
    told = looked_at(full(), width, tmp_path, dark=dark)
    assert told["wide"] <= 0
    assert told["faint"] == []
    assert told["dark"] is dark
    assert told["pixels"] == 2


def test_three_hundred_layers_and_eighty_classes_fit(tmp_path: Path) -> None:
    assert looked_at(full(300, 80), 360, tmp_path)["wide"] <= 0


def test_columns_are_sorted_by_the_keyboard_as_well(tmp_path: Path) -> None:
    told = looked_at(full(), 768, tmp_path)
    assert told["focused"] and not told["unreachable"]
    assert (told["before"], told["up"], told["down"]) == (["40", "30", "20"], ["0", "10", "20"], ["40", "30", "20"])


def test_the_probe_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with a wide box and faint words is told from one without."""
    plain = run_report.page
    bad = "<p style='width:3000px;color:#ccc'>faint</p></main>"
    monkeypatch.setattr(run_report, "page", lambda report: plain(report).replace("</main>", bad))
    told = looked_at(full(), 768, tmp_path)
    assert told["wide"] > 0 and [said for said, _ in told["faint"]] == ["faint"]
