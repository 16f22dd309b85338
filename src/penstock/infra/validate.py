"""A folder of rendered files, held against every rule and schema, offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import SpecError
from penstock.infra import checks
from penstock.infra.policies import cloudformation, clusters, everywhere, kubernetes
from penstock.infra.policies.rule import Documents, Finding, Rule

__all__ = ["KINDS", "RULES", "validate"]

KINDS: Mapping[str, tuple[Rule, ...]] = {
    "cloudformation": cloudformation.RULES,
    "parallelcluster": clusters.PARALLELCLUSTER,
    "ray": clusters.RAY,
    "kuberay": kubernetes.RULES,
}
"""Rules by the folder in which files of their kind lie."""

RULES: tuple[Rule, ...] = (*(rule for rules in KINDS.values() for rule in rules), *everywhere.RULES)


def validate(folder: Path, *, rehearse: bool = True) -> list[Finding]:
    """Everything that is wrong in *folder*.

    Args:
        folder: as `penstock infra render` makes it; the first folder of a path tells the kind of its file.
        rehearse: ask ParallelCluster's own package too, which takes a Python of its own and a minute.

    Raises:
        SpecError: the folder holds nothing.
        PlanError: a tool is missing.
    """
    texts = sorted(path for path in folder.rglob("*") if path.is_file())
    if not texts:
        raise SpecError(f"{folder} holds no files; a folder of rendered files was needed: run penstock infra render")
    found: list[Finding] = []
    documents = {path.relative_to(folder).as_posix(): _read(folder, path, found) for path in texts}
    known = {name: document for name, document in documents.items() if document is not None}
    by_kind = {kind: {name: one for name, one in known.items() if name.split("/")[0] == kind} for kind in KINDS}
    found += [_stray(name) for name in known if not any(name in one for one in by_kind.values())]
    for kind, rules in KINDS.items():
        found += _policies(rules, by_kind[kind])
    found += _policies(everywhere.RULES, known)
    found += checks.cfn_lint(folder, by_kind["cloudformation"])
    found += checks.ray(by_kind["ray"])
    found += checks.kuberay(by_kind["kuberay"])
    found += checks.parallelcluster(folder, by_kind["parallelcluster"]) if rehearse else []
    return sorted({*found})


def _policies(rules: Sequence[Rule], documents: Documents) -> Iterator[Finding]:
    for rule in rules:
        try:
            yield from rule.findings(documents)
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            for name in documents:
                told = f"The file has the shape that rule {rule.id} looks at (found: {error})."
                yield Finding(name, "", "ANY-SHAPE", told, "Render it anew and look at the difference.")


def _stray(name: str) -> Finding:
    told = f"A file lies in {', '.join(KINDS)}, which tells its kind (found: {name})."
    return Finding(name, "", "ANY-KIND", told, "Move it there, or out of the folder: nobody has checked it.")


# --- reading ---------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags, in which a key that comes twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} comes twice", key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _short(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    """``!Ref a`` is ``{Ref: a}``, ``!GetAtt a.b`` is ``{Fn::GetAtt: [a, b]}``."""
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short)


def _read(folder: Path, path: Path, found: list[Finding]) -> Any:
    """The data in *path*; None after a finding."""
    name = path.relative_to(folder).as_posix()
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a safe loader, with more tags)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        found.append(Finding(name, "", "ANY-YAML", f"A file is YAML (found: {told}).", "Mend it where it says."))
        return None
    if not isinstance(data, dict):
        told = f"A file is a mapping (found: {type(data).__name__})."
        found.append(Finding(name, "", "ANY-YAML", told, "Render it anew."))
        return None
    return data
