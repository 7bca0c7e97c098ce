"""The tables that scripts write for these pages."""

from __future__ import annotations


def list_table(title: str, rows: list[list[str]]) -> str:
    """A table in reStructuredText; its first row is the head."""
    lines = [f".. list-table:: {title}", "   :header-rows: 1", "   :class: dense", ""]
    for row in rows:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"
