"""Stands in for Ansys Fluent in tests: ``python fluent_stand_in.py 3ddp -g -t2 -i run.jou``.

Reads the journal and every file that it names by parsers of its own, holds them against the rules of Fluent's manual,
and writes a data file: at each cell the nearest initial value, the iterations as ``SV_P``. Nothing of Penstock is
imported. It refuses to go on at the first fault, as Fluent does. Larger velocities than 100 diverge: exit status 0 and
no data file, as Fluent has it. With ``NO_LICENCE`` in the environment there is none.
"""

import os
import re
import shlex
import sys
from pathlib import Path

import h5py
import numpy as np


def fault(text):
    print(f"Error: {text}", flush=True)
    sys.exit(1)


def tree(text):
    """Nested lists of an s-expression file, one token after the other."""
    stack = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) != 1:
        fault("parentheses do not match")
    return stack[0]


def profile(path):
    for (name, kind, *sizes), *fields in tree(path.read_text("ascii")):
        if name != name.lower() or kind not in ("point", "line", "mesh", "transient"):
            fault(f"profile {name} {kind}")
        for field, *values in fields:
            if len([float(value) for value in values]) != int(sizes[0]):
                fault(f"profile {name}: {field} has {len(values)} values, not {sizes[0]}")
        yield name, {field: np.array(values, float) for field, *values in fields}


def initial(path, dimension):
    lines = path.read_text("ascii").split("\n")
    if lines[0] != "3" or int(lines[1]) != dimension:
        fault(f"{path} is not a version 3 file of dimension {dimension}")
    points, count = int(lines[2]), int(lines[3])
    names, rest = lines[4 : 4 + count], "\n".join(lines[4 + count :])
    lists = [np.array(found.split(), float) for found in re.findall(r"\(([^)]*)\)", rest)]
    if [len(values) for values in lists] != [points] * (dimension + count):
        fault(f"{path} has lists of other lengths than {points}")
    return np.stack(lists[:dimension], 1), dict(zip(names, lists[dimension:], strict=True))


def centres(path):
    """Mean of the centres of the faces of each cell, one face after the other."""
    with h5py.File(path) as file:
        mesh = file["meshes/1"]
        coords, sizes = mesh["nodes/coords/1"][:], mesh["faces/nodes/1/nnodes"][:]
        nodes, c0, c1 = mesh["faces/nodes/1/nodes"][:], mesh["faces/c0/1"][:], mesh["faces/c1/1"][:]
        sums, counts, at = np.zeros((int(mesh.attrs["cellCount"][0]), coords.shape[1])), {}, 0
    for face, size in enumerate(sizes):
        centre = coords[nodes[at : at + size].astype(int) - 1].mean(0)
        at += int(size)
        for cell in (int(c0[face]), int(c1[face]) if face < len(c1) else 0):
            if cell:
                sums[cell - 1] += centre
                counts[cell] = counts.get(cell, 0) + 1
    return sums / np.array([counts[cell + 1] for cell in range(len(sums))])[:, None]


def main():  # noqa: C901  (one command after the other, as in the journal)
    version, *words = sys.argv[1:]
    if version not in ("3ddp", "3d", "2ddp", "2d") or "-g" not in words or words[-2] != "-i":
        fault(f"the command line is {sys.argv[1:]}")
    if not any(re.fullmatch(r"-t\d+", word) for word in words):
        fault("the number of processes is missing")
    if "NO_LICENCE" in os.environ:
        print("Unexpected license problem; exiting.")
        sys.exit(1)
    cells, fields, profiles, iterations = None, {}, {}, 0
    for line in Path(words[-1]).read_text("ascii").splitlines():
        command, *rest = shlex.split(line)
        print(f"> {line}", flush=True)
        if cells is None and command not in ("/file/set-tui-version", "/file/read-case"):
            fault(f"{command} before a case is there")
        if command == "/file/read-case":
            cells = centres(rest[0])
        elif command == "/file/read-profile":
            profiles.update(profile(Path(rest[0])))
        elif command == "/file/interpolate/read-data":
            points, values = initial(Path(rest[0]), int(version[0]))
            nearest = ((cells[:, None, : points.shape[1]] - points) ** 2).sum(2).argmin(1)
            fields = {"SV_" + "UVW"["xyz".index(name[0])]: found[nearest] for name, found in values.items()}
        elif command == "/solve/initialize/initialize-flow":
            mean = sum(values["u"].mean() for values in profiles.values())
            fields = {"SV_U": np.full(len(cells), mean), "SV_V": np.zeros(len(cells))}
        elif command in ("/solve/iterate", "/solve/dual-time-iterate"):
            iterations = int(rest[0])
            if max(np.abs(values).max() for values in fields.values()) > 100:
                print("Error: Divergence detected in AMG solver: x-momentum\nError Object: #f")
                sys.exit(0)
        elif command == "/file/write-data":
            fields["SV_P"] = np.full(len(cells), float(iterations))
            with h5py.File(rest[0], "w") as file:
                file["settings/Case File"] = np.array([b"case"], "S5")
                group = file.create_group("results/1/phase-1/cells")
                group["fields"] = np.array(["".join(f"{name};" for name in fields).encode()], "S99")
                for name, values in fields.items():
                    group.create_group(name).attrs["nSections"] = np.array([1], "u8")
                    group[f"{name}/1"] = values
                    group[f"{name}/1"].attrs.update(
                        {"minId": np.array([1], "u8"), "maxId": np.array([len(values)], "u8")}
                    )
        elif command == "/exit":
            return
        elif not command.startswith(("/define/", "/file/set-tui-version")):
            fault(f"invalid command [{command}]")
    fault("the journal ends without /exit")


if __name__ == "__main__":
    main()
