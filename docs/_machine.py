"""Where and when the numbers on these pages were measured."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import torch


def measured_on(how: str = "") -> str:
    """A line with the date, the processor, how it was used, and the versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    parts = [
        name,
        how,
        f"PyTorch {torch.__version__.split('+')[0]}",
        f"Python {platform.python_version()}",
        platform.system(),
    ]
    return f"Measured on {datetime.date.today():%-d %B %Y}: {', '.join(filter(None, parts))}.\n"
