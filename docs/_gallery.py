"""The gallery's pages: sphinx-gallery makes them of the scripts, and this adds what a run gave.

The runs are recorded by ``record.py``, at the scripts' default settings: too long for each build of
these pages, and a shorter run would give poorer pictures than a reader gets. For the same reason
the pages offer the scripts to download and no notebook: they are commands.
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image, ImageOps
from sphinx.application import Sphinx

__all__ = ["TILES", "add_run", "draw_tiles", "place"]

EXAMPLES = Path(__file__).parent / "examples"
RECORDED = Path(__file__).parent / "recorded"
TILES = {  # the scripts in their order, and which part of its figure stands for each
    "hyperspherical_vae.py": (0.08, 0.11, 0.5, 0.53),
    "choosing_a_concentration.py": (0.28, 0.05, 0.77, 0.44),
    "image_vae.py": (0.043, 0.815, 0.247, 0.99),
    "one_draw.py": (0.0, 0.0, 0.32, 0.5),
    "document_vae.py": (0.375, 0.0, 0.695, 1.0),
    "sentence_vae.py": (0.5, 0.0, 1.0, 1.0),
    "vanishing_kl.py": (0.0, 0.0, 0.51, 1.0),
    "code_probes.py": (0.5, 0.0, 1.0, 1.0),
    "directional_data.py": (0.55, 0.0, 1.0, 1.0),
    "clustering_digits.py": (0.02, 0.04, 0.53, 0.75),
    "clustering_documents.py": (0.46, 0.1, 1.0, 0.8),
    "embeddings_and_classes.py": (0.0, 0.0, 0.6, 1.0),
    "uncertain_embeddings.py": (0.0, 0.0, 0.31, 1.0),
    "bayesian_mean_direction.py": (0.05, 0.09, 0.45, 0.8),
    "spherical_random_walk.py": (0.03, 0.09, 0.385, 0.9),
    "mixture_of_directions.py": (0.02, 0.09, 0.43, 0.91),
}  # left, top, right, bottom, as shares of its width and height
TILE_SIZE = (400, 280)  # pixels
NOTE = re.compile(r"^\.\. only:: html\n\n    \.\. note::\n.*?\n(?=\S)", re.M | re.S)
FIRST_BLOCK = re.compile(r"^\.\. GENERATED FROM PYTHON SOURCE LINES .*\n\n+\.\. code-block::", re.M)
FOOTER = re.compile(r"^\.\. _sphx_glr_download_.*", re.M | re.S)


def place(script: str) -> int:
    """The place of a script in the gallery."""
    return list(TILES).index(script)


def needed(script: str) -> list[str]:
    """A script and the modules beside it that it imports, or that these import."""
    files = [script]
    for file in files:  # grows
        modules = re.findall(r"^from (\w+) import", (EXAMPLES / file).read_text(), re.M)
        found = (f"{module}.py" for module in modules)
        files += [f for f in dict.fromkeys(found) if f not in files and (EXAMPLES / f).exists()]
    return files


def draw_tiles(app: Sphinx) -> None:
    """Put one panel of each recorded figure on its tile, where a whole sheet cannot be read."""
    folder = Path(app.srcdir) / "gallery" / "images" / "thumb"
    for script, (left, top, right, bottom) in TILES.items():
        name = script.removesuffix(".py")
        figure = Image.open(RECORDED / f"{name}.png").convert("RGB")
        width, height = figure.size
        panel = figure.crop(
            (round(left * width), round(top * height), round(right * width), round(bottom * height))
        )
        tile = ImageOps.pad(panel, TILE_SIZE, color="white")
        tile.save(folder / f"sphx_glr_{name}_thumb.png")


def add_run(app: Sphinx, page: str, source: list[str]) -> None:
    """Put figure and output of the recorded run behind the introduction of a gallery page."""
    name = page.removeprefix("gallery/")
    script = EXAMPLES / f"{name}.py"
    if name == page or not script.exists():
        return
    links = ", ".join(f":download:`{file} </examples/{file}>`" for file in needed(f"{name}.py"))
    run = f"""
A whole run draws this:

.. image:: /recorded/{name}.png
   :alt: the figure of {name}.py

and prints this:

.. literalinclude:: /recorded/{name}.txt
   :language: none

The script, and what it imports from beside it: {links}.

"""
    text = FOOTER.sub("", NOTE.sub("", source[0], count=1))
    source[0] = FIRST_BLOCK.sub(lambda match: run + match[0], text, count=1)
