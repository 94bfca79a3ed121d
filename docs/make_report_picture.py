"""Makes docs/_static/report.png, the picture of a report in the README, by a headless Chromium.

make demo
python docs/make_report_picture.py demo/drifted/report.html
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

OUT = Path(__file__).parent / "_static" / "report.png"
WIDTH, HEIGHT = 1000, 1350
MAX_BYTES = 150_000


def main(report: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium found")
    with TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"]
        size, target = f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"
        subprocess.run([browser, *options, size, target, report.absolute().as_uri()], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(OUT, optimize=True)
    if OUT.stat().st_size > MAX_BYTES:
        sys.exit(f"{OUT}: {OUT.stat().st_size} bytes, at most {MAX_BYTES} are wanted")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
