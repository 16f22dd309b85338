"""Checks by tools of others: cfn-lint, schemas of Ray and KubeRay, ParallelCluster's; a missing tool is an error.

ParallelCluster wants older packages than we do, so it has a Python of its own, which ``scripts/infra-tools`` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.errors import PlanError
from penstock.infra.policies.rule import Documents, Finding, at

__all__ = ["TOOLS", "cfn_lint", "kuberay", "parallelcluster", "ray"]

TOOLS = "PENSTOCK_INFRA_TOOLS"
_SECONDS = 600


def cfn_lint(folder: Path, names: Documents) -> Iterator[Finding]:
    """What cfn-lint says of the templates *names* below *folder*: types, values, attributes, from AWS's own schemas."""
    _needed("cfnlint", "cfn-lint", "pip install 'penstock[infra]'")
    from cfnlint import ManualArgs
    from cfnlint.api import lint_file

    for name in names:
        for match in lint_file(folder / name, config=ManualArgs()):
            path = ".".join(str(step) for step in getattr(match, "path", None) or ()) or f"line {match.linenumber}"
            mend = f"See cfn-lint's rule {match.rule.id}: {match.rule.shortdesc}."
            yield Finding(name, path, f"CFN-{match.rule.id}", f"{match.message}.", mend)


def ray(documents: Documents) -> Iterator[Finding]:
    """What Ray's own schema of cluster files says (``ray-schema.json`` in its wheel, read, not imported)."""
    found = find_spec("ray")
    if found is None or not found.submodule_search_locations:
        raise _missing("ray", "pip install 'penstock[infra]'")
    schema = Path(next(iter(found.submodule_search_locations))) / "autoscaler" / "ray-schema.json"
    rules = json.loads(schema.read_text(encoding="utf-8"))
    for name, document in documents.items():
        yield from _held(name, document, rules, "RAY-SCHEMA", "ray-schema.json of Ray")


def kuberay(documents: Documents) -> Iterator[Finding]:
    """What our schema of KubeRay's objects says (``schemas/kuberay.json``, its sources named inside)."""
    rules = json.loads((files("penstock.infra") / "schemas" / "kuberay.json").read_text(encoding="utf-8"))
    kinds = [kind for kind in rules["$defs"] if kind[0].isupper()]
    for name, document in documents.items():
        kind = at(document, "kind")
        if kind not in kinds:
            known = f"One of {', '.join(kinds)} was needed."
            yield Finding(name, "kind", "K8S-SCHEMA", f"The kind is known (found: {kind}).", known)
            continue
        yield from _held(name, document, rules | {"$ref": f"#/$defs/{kind}"}, "K8S-SCHEMA", "schemas/kuberay.json")


def _held(name: str, document: Any, rules: Mapping[str, Any], rule: str, source: str) -> Iterator[Finding]:
    """Breaches of a JSON schema, at the deepest place that it can tell."""
    _needed("jsonschema", "jsonschema", "pip install 'penstock[infra]'")
    from jsonschema.validators import validator_for

    for error in validator_for(rules)(rules).iter_errors(document):
        path = ".".join(str(step) for step in error.absolute_path)
        told = error.message if len(error.message) < 300 else f"{error.message[:300]}..."
        yield Finding(name, path, rule, f"{told}.", f"Write it as {source} has it.")


# --- ParallelCluster -------------------------------------------------------------------------------------


def parallelcluster(folder: Path, names: Documents) -> Iterator[Finding]:
    """What ParallelCluster's schema says, then its validators in a dry run against moto; nothing reaches AWS."""
    if not names:
        return
    python = _tools()
    program = str(files("penstock.infra") / "programs" / "parallelcluster_check.py")
    for name in names:
        for one in _answer([str(python), "-P", program, str(folder / name)]):
            rule = "PC-SCHEMA" if one["rule"] == "schema" else "PC-DRYRUN"
            told = one["told"] if one["rule"] in ("schema", "dry-run") else f"{one['rule']}: {one['told']}"
            yield Finding(name, one["path"], rule, told, "See the ParallelCluster guide, 'Cluster configuration file'.")


def _answer(command: list[str]) -> list[dict[str, str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment)
    if done.returncode:
        raise PlanError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-1000:]}; "
            "make the tools anew: rm -r .cache/infra-tools && scripts/infra-tools"
        )
    found: list[dict[str, str]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _tools() -> Path:
    """The Python that has aws-parallelcluster."""
    named = os.environ.get(TOOLS)
    python = Path(named) if named else Path(".cache/infra-tools/bin/python")
    if not python.exists():
        raise PlanError(
            f"{python} is not there; a Python with aws-parallelcluster was needed to check ParallelCluster's "
            f"configuration: run scripts/infra-tools (it makes .cache/infra-tools), or set {TOOLS} to such a Python"
        )
    return python.absolute()


def _needed(module: str, what: str, command: str) -> None:
    if find_spec(module) is None:
        raise _missing(what, command)


def _missing(what: str, command: str) -> PlanError:
    return PlanError(f"{what} is not installed; it was needed to check infrastructure: {command}")
