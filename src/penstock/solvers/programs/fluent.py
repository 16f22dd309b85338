"""Runs Fluent on one row: ``python -m penstock.solvers.programs.fluent job.json``, in the job's folder.

Reads ``batch.arrow`` and the case, which is linked beside it unless it was copied there. Leaves ``data.<item>``
(Fluent's data file) and ``ended.<item>``, JSON::

    {"code": Fluent's exit status, "why": why there is no solution, or ""}

Fluent may end with status 0 after an error, so what counts is the data file. A row that diverges is not the job's
failure; a missing program or licence is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from penstock.core import plugins
from penstock.core.batch import from_bytes
from penstock.solvers.fluent import DATA, Setup, rows_of, write_row

__all__ = ["main"]

_TAIL_LINES = 12
_LICENCE = ("license", "licence", "lmgrd", "flexlm")


def main(config: str) -> None:
    """Run item ``PENSTOCK_ITEM`` of the batch."""
    told = json.loads(Path(config).read_text())
    item = int(os.environ.get("PENSTOCK_ITEM", "0"))
    setup = plugins.adapter(Setup).validate_python(told["setup"])
    folder = Path(f"row-{item}").absolute()
    folder.mkdir(exist_ok=True)
    (folder / DATA).unlink(missing_ok=True)
    batch = from_bytes(Path("batch.arrow").read_bytes())
    write_row(folder, setup, next(rows_of(setup, batch.slice(item, 1))))
    link(told["case"], setup.case)
    code = run(told["command"], folder)
    why = "" if (folder / DATA).exists() else explained(code, folder)
    if why and any(word in why.lower() for word in _LICENCE):
        sys.exit(f"{why}\nthere is no licence for Fluent now; see to ANSYSLMD_LICENSE_FILE, or try again later")
    if not why:
        (folder / DATA).replace(f"data.{item}")
    Path(f"ended.{item}").write_text(json.dumps({"code": code, "why": why}))


def link(case: str, name: str) -> None:
    """Let the case's file be found in the job's folder: cases are large, and are read alone."""
    if case:
        with suppress(FileExistsError):  # another item of the job was first
            Path(name).symlink_to(case)


def run(command: Sequence[str], folder: Path) -> int:
    """Fluent's exit status; what it prints goes to ``transcript`` in *folder*."""
    with (folder / "transcript").open("wb") as out:
        try:
            return subprocess.run(
                command, cwd=folder, env={**os.environ, "PWD": str(folder)}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        except OSError as error:
            sys.exit(f"{command[0]} cannot be started on this node: {error.strerror}; set 'program' to where Fluent is")


def explained(code: int, folder: Path) -> str:
    """Why a run left no solution: its first error, and the end of its transcript."""
    lines = [line for line in (folder / "transcript").read_text(errors="replace").splitlines() if line.strip()]
    error = next((line.strip() for line in lines if "error" in line.lower()), "no solution was written")
    tail = "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])
    return f"Fluent ended with status {code}: {error}; the end of its transcript:\n{tail}"


if __name__ == "__main__":
    main(sys.argv[1])
