"""The gallery's pages: sphinx-gallery makes them of the scripts, and this adds what a run gave.

The runs are recorded by ``record.py``, at the scripts' default settings: too long for each build of
these pages, and a shorter run would give poorer pictures than a reader gets. For the same reason
the pages offer the scripts to download and no notebook: they are commands.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["ORDER", "add_run", "place"]

EXAMPLES = Path(__file__).parent / "examples"
ORDER = (
    "hyperspherical_vae.py",
    "choosing_a_concentration.py",
    "image_vae.py",
    "document_vae.py",
    "sentence_vae.py",
    "vanishing_kl.py",
    "code_probes.py",
    "directional_data.py",
    "clustering_digits.py",
    "embeddings_and_classes.py",
    "bayesian_mean_direction.py",
    "spherical_random_walk.py",
    "mixture_of_directions.py",
)
NOTE = re.compile(r"^\.\. only:: html\n\n    \.\. note::\n.*?\n(?=\S)", re.M | re.S)
FIRST_BLOCK = re.compile(r"^\.\. GENERATED FROM PYTHON SOURCE LINES .*\n\n+\.\. code-block::", re.M)
FOOTER = re.compile(r"^\.\. _sphx_glr_download_.*", re.M | re.S)


def place(script: str) -> int:
    """The place of a script in the gallery."""
    return ORDER.index(script)


def needed(script: str) -> list[str]:
    """A script and the modules beside it that it imports, or that these import."""
    files = [script]
    for file in files:  # grows
        modules = re.findall(r"^from (\w+) import", (EXAMPLES / file).read_text(), re.M)
        found = (f"{module}.py" for module in modules)
        files += [f for f in dict.fromkeys(found) if f not in files and (EXAMPLES / f).exists()]
    return files


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
