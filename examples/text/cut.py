"""Cuts docstrings.jsonl out of the docstrings of NumPy 2.4.6 and SciPy 1.17.1: one topic for each module.

Usage::

    pip install numpy==2.4.6 scipy==1.17.1
    python cut.py > docstrings.jsonl
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator

MODULES = (
    "numpy.strings",
    "scipy.interpolate",
    "scipy.linalg",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.special",
    "scipy.stats",
)
EACH = 32
SHORTEST, LONGEST = 80, 480
SECTION = re.compile(r"\n[A-Z][A-Za-z ]+\n-{3,}")
SIGNATURE = re.compile(r"\A\w+\(.*?\)\n\n", re.DOTALL)
REPEATED = re.compile(r"The documentation is written assuming array arguments are.*", re.DOTALL)
MARKUP = re.compile(r"\.\. \w+::[^\n]*\n|:\w+:|[`*]")


def opening(docstring: str) -> str:
    """What stands before the first section, on one line, up to the last sentence that ends in time.

    Signatures and the paragraph that all of scipy.linalg shares would tell the topic by their form.
    """
    text = SECTION.split(docstring)[0]
    for noise in (SIGNATURE, REPEATED, MARKUP):
        text = noise.sub("", text)
    text = " ".join(text.split())
    if len(text) <= LONGEST:
        return text
    return text[: text.rfind(". ", 0, LONGEST) + 1]


def texts(module: str) -> Iterator[dict[str, str]]:
    """The functions of *module* that say enough about themselves, in alphabetical order; no text twice."""
    loaded, seen = importlib.import_module(module), set()
    for name in sorted(loaded.__all__):
        thing = getattr(loaded, name)
        text = "" if inspect.ismodule(thing) else opening(inspect.getdoc(thing) or "")
        if len(text) >= SHORTEST and text not in seen:
            seen.add(text)
            yield {"id": f"{module}.{name}", "topic": module.split(".")[1], "text": text}


def spread(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """`EACH` of them, evenly over the alphabet."""
    return [found[i * len(found) // EACH] for i in range(EACH)]


if __name__ == "__main__":
    for module in MODULES:
        for line in spread(list(texts(module))):
            print(json.dumps(line, ensure_ascii=False))
