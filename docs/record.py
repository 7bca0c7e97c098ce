"""Records what the examples print and draw for the gallery: recorded/NAME.txt and NAME.png.

With no name it runs all of them, one after another, which takes half an hour:

    python docs/record.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys

from _gallery import EXAMPLES, RECORDED, TILES
from PIL import Image

COLOURS = 256  # of a picture: a quarter of the bytes


def record(name: str) -> None:
    """Run a script at its default settings; keep what it prints and draws."""
    figure = RECORDED / f"{name}.png"
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--output", str(figure)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    printed = done.stdout.replace(str(figure), f"{name}.png")
    (RECORDED / f"{name}.txt").write_text(f"$ python {name}.py\n{printed}")
    # the rare colours matter here, those of dots and legends, not the many greys
    picture = Image.open(figure).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(figure, optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or [script.removesuffix(".py") for script in TILES]:
        record(name)
