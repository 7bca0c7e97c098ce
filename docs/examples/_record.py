"""Records of runs: a line of JSON for each, from which the page of results is made."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyro
import torch

import vmfdist
from _options import writing

__all__ = ["add_record", "read_records"]


def add_record(path: Path, device: torch.device, **content: Any) -> None:
    """Append a run to a file, with the command, the date, the machine and the versions.

    Args:
        path: the file; made if it is not there.
        device: where the run took place.
        content: what was measured, in what JSON can hold.

    Raises:
        DataError: the file cannot be written.
    """
    line = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": name_of(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "vmfdist": vmfdist.__version__,
        },
        **content,
    }
    with writing(path, "the record of this run is lost"), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The runs of a file, in the order in which they ended."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def name_of(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} of {os.cpu_count()} threads"
