"""What all benchmarks share: turns, spread, the machine, and the file in results/."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def turns(ways: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Measure all ways in turn, *count* times, so that a slow minute of the machine hits them all."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(count):
        for name, way in ways.items():
            found[name].append(way())
            print(f"turn {turn + 1}: {name} {found[name][-1]:.3f}", flush=True)
    return found


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of *action*."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write(name: str, result: Mapping[str, Any]) -> None:
    """Put a result with machine and commit into results/NAME.json and print it."""
    git = ["git", "-C", str(RESULTS), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    machine = {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    data = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "commit": commit, "machine": machine, **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


def picture(figure: Any, path: Path) -> None:
    """Draw a plotly figure, whose layout has its width and height, as a PNG, by Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "plot.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000",
             f"--window-size={figure.layout.width + 16},{figure.layout.height + 16}", f"--screenshot={path}",
             page.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip


def _cpu() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
