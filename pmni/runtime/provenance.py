"""What made a result: settings, inputs, versions, hardware, seconds and memory."""

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pmni.config.base import Settings
from pmni.io.atomic import write_text
from pmni.io.hashing import sha256
from pmni.runtime.stages import STAGES

PACKAGES = (
    *("pmni", "torch", "triton", "numpy", "scipy", "pypose", "trimesh"),
    *("tinycudann", "nerfacc"),
)
"""Names on PyPI of the packages whose versions are recorded, where they are installed."""


def fingerprint(stage: str, settings: Settings, inputs: Mapping[str, Path]) -> str:
    """A short hash of everything that determines a stage's result."""
    content = {
        "stage": stage,
        "version": STAGES[stage].version,
        "settings": settings.model_dump(mode="json"),
        "inputs": {name: sha256(path) for name, path in sorted(inputs.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def record(
    stage: str, path: Path, settings: Settings | None, inputs: Mapping[str, Path]
) -> Iterator[dict[str, Any]]:
    """Time the block and, when it succeeds, write provenance to the JSON file `path`.

    The yielded dictionary takes what only the stage knows (backend, device, ...).
    """
    details: dict[str, Any] = {}
    start = time.perf_counter()
    yield details
    seconds = time.perf_counter() - start
    content = {
        "stage": stage,
        "stage_version": STAGES[stage].version,
        "settings": settings.model_dump(mode="json") if settings else {},
        "inputs": {
            name: {"file": Path(source).name, "sha256": sha256(source)}
            for name, source in inputs.items()
        },
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        **details,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and the packages that shape results."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """The commit of the source tree this package runs from, with '+' when it has changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")


def hardware() -> dict[str, Any]:
    """Processor, cores and, when torch is loaded and sees one, the GPU."""
    parts: dict[str, Any] = {"processor": _processor_name(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts["gpu"] = torch.cuda.get_device_name()
    return parts


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)
