"""Makes the pictures of README and docs/gallery.md from the pages of a finished demo.

    make demo && make screenshots    # or: python -m tools.screenshots --demo . --out docs/images

It needs Chromium. It photographs the page of a training run, of an evaluation and of a preview, and the gallery of
questions and answers. It writes one small PNG file for each.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tools.gallery import write_gallery

WIDTH, HEIGHT = 1000, 760  # CSS pixels of the window
WHOLE_PAGE = 3000  # more than the gallery needs; the empty rest is cut off
MARGIN = 24
COLOURS = 256  # a palette makes the files small


def browser() -> str:
    """Return the path of Chromium.

    Raises: SystemExit when no browser is installed.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("screenshots need Chromium: install the package chromium")


def photograph(page: Path, out: Path, *, start_at: str = "", unfold: int = 0, height: int = HEIGHT) -> None:
    """Write a picture of the top of a page, without the empty rest of a short page.

    Args:
        start_at: the id of the section to show at the top; the sections before it are left out
        unfold: how many of the first folded parts to show unfolded
        height: CSS pixels of the window
    """
    text = page.read_text(encoding="utf-8")
    if start_at:
        head, body = text.split("<main>", 1)
        start = re.search(rf'<(section|h2) id="{re.escape(start_at)}"', body)
        assert start is not None, f"{page} has no section {start_at}"
        text = head + "<main>" + body[start.start() :]
    text = re.sub("<details>", "<details open>", text, count=unfold) if unfold else text
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text.replace('loading="lazy"', ""), encoding="utf-8")
        shot = Path(folder) / "page.png"
        command = (
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--window-size={WIDTH},{height}", f"--screenshot={shot}", copy.as_uri(),
        )  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as picture:
            small = in_few_colours(without_empty_rest(picture.convert("RGB")))
        small.save(out, optimize=True)
    print(f"{out} ({out.stat().st_size / 1024:.0f} KB)")


def without_empty_rest(picture: Image.Image) -> Image.Image:
    """Return a picture of a page that ends a margin below the last thing on it."""
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    found = ImageChops.difference(picture, empty).getbbox()
    return picture.crop((0, 0, picture.width, min(picture.height, found[3] + MARGIN))) if found else picture


def in_few_colours(picture: Image.Image) -> Image.Image:
    """Return a picture with a palette that keeps rare colours, such as the purple things of one scene."""
    return picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)


def preview(demo: Path, folder: Path) -> Path:
    """Write the preview page of the demo's mixture; return its path."""
    config = demo / "sample_world/train_configs/sample_world_dataengine.yaml"
    options = ("--options", f"run.output_dir={folder}")
    command = (sys.executable, "-P", "-m", "minigpt4", "preview", "4", "--cfg-path", str(config.resolve()), *options)
    subprocess.run(command, check=True, capture_output=True, cwd=demo, timeout=600)
    return next(folder.rglob("preview.html"))


def main() -> None:
    """Make the four pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path(), help="the folder in which `minigpt4 demo` was run")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    photograph(args.demo / "output/sample_world_dataengine/demo/report.html", args.out / "training.png")
    evaluation = args.demo / "evaluation_results/report.html"
    photograph(evaluation, args.out / "evaluation.png", start_at="seed", unfold=1)
    with tempfile.TemporaryDirectory() as folder:
        photograph(preview(args.demo, Path(folder)), args.out / "preview.png", start_at="engine_mc")
        photograph(write_gallery(args.demo, Path(folder) / "gallery.html"), args.out / "gallery.png", height=WHOLE_PAGE)


if __name__ == "__main__":
    main()
