"""Photograph a page: `python scripts/page_picture.py runs/detect/prune/report.html docs/images/page.png`.

It needs chromium.

What the docs show is the page down to its network, with the image that changed most alone. `--width 360 --whole` is the
page as a phone shows it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TALL = 12000
"""Of the window in pixels; what stays empty below the page is cut off."""

BEGINNING = """
document.querySelectorAll(".example").forEach((one, i) => { if (i) one.remove(); });
const last = document.querySelector("main > details");
while (last && last.nextSibling) last.nextSibling.remove();
"""


def photographed(page: Path, width: int, *, whole: bool) -> Image.Image:
    """The page in a window of that width, light; of the docs' picture only its beginning."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"page_picture.py: needs one of {', '.join(BROWSERS)}")
    said = page.read_text(encoding="utf-8")
    frame = said if whole else said.replace("</body>", f"<script>{BEGINNING}</script></body>")
    with tempfile.TemporaryDirectory() as place:
        shown, shot = Path(place) / "page.html", Path(place) / "shot.png"
        # A window is never narrower than 500 pixels: a frame is
        shown.write_text(
            "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#fff}iframe{border:0;display:block}"
            f"</style><iframe id=f style='width:{width}px;height:{TALL}px'></iframe>"
            f"<script>document.getElementById('f').srcdoc = {_quoted(frame)};</script>",
            "utf-8",
        )
        words = (browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        options = (
            f"--user-data-dir={place}/profile",
            f"--window-size={max(width, 500)},{TALL}",
            f"--screenshot={shot}",
        )
        subprocess.run(
            [*words, *options, "--virtual-time-budget=5000", shown.as_uri()],
            check=True,
            capture_output=True,
            timeout=300,
        )
        image = Image.open(shot).convert("RGB")
        image.load()
    image = image.crop((0, 0, width, image.height))
    drawn = np.flatnonzero((np.asarray(image) != 255).any((1, 2)))
    return image.crop((0, 0, width, int(drawn[-1]) + 17))


def _quoted(text: str) -> str:
    """A text as JavaScript that may stand in a page."""
    return json.dumps(text).replace("</", "<\\/")


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1000, help="of the window in pixels")
    parser.add_argument("--whole", action="store_true", help="all of the page")
    told = parser.parse_args()
    image = photographed(told.page, told.width, whole=told.whole)
    image.quantize(256).save(told.picture, optimize=True)
    print(f"{told.picture}: {image.width} x {image.height}")


if __name__ == "__main__":
    main()
