"""What one small ``deploy.toml`` says: the only input of every artefact.

::

    name = "penstock"
    region = "eu-central-1"

    [storage]
    bucket = "penstock-example-data"

Identifiers that AWS gives (subnets, a file system, an image of a machine) are known when the stacks that make them are
there; they stand in ``[made]``. An account id stands nowhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, ErrorDetails

from penstock.errors import SpecError

__all__ = [
    "Budget",
    "Cluster",
    "Deployment",
    "Files",
    "Filesystem",
    "Kubernetes",
    "Made",
    "Network",
    "Node",
    "Queue",
    "Ray",
    "Storage",
    "load",
    "loads",
]

Files: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Plain data by the path of its file."""


def _text(pattern: str, needed: str) -> Any:
    return Field(pattern=pattern, description=needed)


def _whole_steps(gib: int) -> int:
    if gib != 1200 and gib % 2400:
        raise ValueError("1200, 2400 or a multiple of 2400")
    return gib


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted({*values}):
        raise ValueError("numbers that ascend")
    return values


Name = Annotated[str, _text(r"^[a-z][a-z0-9-]{0,23}$", "a lower-case letter, then up to 23 letters, digits or hyphens")]
Bucket = Annotated[
    str,
    _text(r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", "3 to 63 lower-case letters, digits and hyphens (S3's naming rules)"),
]
Instance = Annotated[str, _text(r"^[a-z0-9-]+\.[a-z0-9-]+$", 'a type of EC2 instance, as "c5.xlarge"')]
Cidr = Annotated[str, _text(r"^\d{1,3}(\.\d{1,3}){3}/\d{1,2}$", 'a range of addresses, as "10.20.0.0/16"')]
Image = Annotated[
    str,
    _text(
        r"^[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9._-]*)*:[A-Za-z0-9][\w.-]*$",
        'an image with its tag and without a registry\'s host, as "penstock/ray:0.1.0"; an overlay names the registry',
    ),
]
Positive = Annotated[int, Field(gt=0, description="a whole number above 0")]
Count = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]

_data = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=False))


@_data
class Storage:
    """The bucket.

    Attributes:
        raw: prefix that is read alone.
        datasets: prefix that runs write below.
    """

    bucket: Bucket
    raw: Name = "raw"
    datasets: Name = "datasets"
    noncurrent_days: Positive = 30
    multipart_days: Positive = 2


@_data
class Filesystem:
    """FSx for Lustre: sizes and rates that ``PERSISTENT_2`` on SSD has (CreateFileSystemLustreConfiguration)."""

    capacity_gib: Annotated[
        int,
        Field(gt=0, description="1200, 2400 or a multiple of 2400 (StorageCapacity of PERSISTENT_2)"),
        AfterValidator(_whole_steps),
    ] = 1200
    throughput_mb_per_second_per_tib: Annotated[
        Literal[125, 250, 500, 1000], Field(description="125, 250, 500 or 1000")
    ] = 125
    version: Annotated[str, _text(r"^2\.(12|15)$", 'a version of Lustre, "2.12" or "2.15"')] = "2.15"


@_data
class Network:
    """A VPC with private subnets alone."""

    vpc_cidr: Cidr = "10.20.0.0/16"
    subnet_cidrs: Annotated[tuple[Cidr, ...], Field(min_length=1, max_length=4, description="1 to 4 ranges")] = (
        "10.20.0.0/18",
        "10.20.64.0/18",
    )


@_data
class Budget:
    """When somebody is told what was spent."""

    monthly_usd: Positive
    email: Annotated[str, _text(r"^[^@\s]+@[^@\s]+\.[^@\s]+$", 'an address, as "ops@example.org"')]
    alarm_percent: Annotated[
        tuple[Positive, ...],
        Field(min_length=1, max_length=5, description="1 to 5 percentages that ascend"),
        AfterValidator(_ascending),
    ] = (50, 80, 100)


@_data
class Queue:
    """A queue of Slurm in ParallelCluster; with *efa* its nodes stand close and speak MPI by the fabric adapter."""

    name: Name
    instance: Instance
    max_nodes: Positive
    min_nodes: Count = 0
    efa: bool = False

    def __post_init__(self) -> None:
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is more than max_nodes {self.max_nodes}; lower the one")


@_data
class Cluster:
    """ParallelCluster.

    Attributes:
        accounting_uri: host and port of a MySQL server for Slurm's accounting; empty: no accounting.
        accounting_secret: name of its password in Secrets Manager, as an ARN (then the file holds your account's id).
    """

    head_instance: Instance = "t3.medium"
    os: Annotated[str, _text(r"^(alinux2023|ubuntu2204|ubuntu2404|rhel8|rhel9|rocky8|rocky9)$", "alinux2023, ...")] = (
        "alinux2023"
    )
    root_gib: Positive = 50
    key_name: Name = "penstock"
    ssh_cidr: Cidr = "10.20.0.0/16"
    log_days: Positive = 30
    queue: Annotated[tuple[Queue, ...], Field(min_length=1, max_length=10, description="1 to 10 queues")]
    accounting_uri: str = ""
    accounting_user: Name = "slurm"
    accounting_secret: str = ""

    def __post_init__(self) -> None:
        if bool(self.accounting_uri) != bool(self.accounting_secret):
            raise ValueError("accounting_uri and accounting_secret come together: give both, or none for no accounting")


@_data
class Node:
    """A kind of Ray worker on AWS."""

    name: Name
    instance: Instance
    max_workers: Positive
    min_workers: Count = 0

    def __post_init__(self) -> None:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is more than max_workers {self.max_workers}; lower the one"
            )


@_data
class Ray:
    """A Ray cluster on EC2."""

    head_instance: Instance = "m5.large"
    disk_gib: Positive = 100
    idle_minutes: Positive = 5
    ssh_user: Name = "ubuntu"
    key_name: Name = "penstock"
    node: Annotated[tuple[Node, ...], Field(min_length=1, description="at least one kind of worker")]


@_data
class Kubernetes:
    """Ray on Kubernetes by KubeRay.

    Attributes:
        service: ``FILE#PIPELINE.STEP`` in the ConfigMap of pipelines, which RayService serves.
        redis: ``host:port`` of a Redis in which Ray's head keeps its state; empty: a lost head ends its cluster.
    """

    namespace: Name = "penstock"
    image: Image
    ray_version: Annotated[str, _text(r"^\d+\.\d+\.\d+$", 'the version of Ray in the image, as "2.60.0"')]
    pipeline: Annotated[str, _text(r"^[\w.-]+\.toml$", "the name of a pipeline file")] = "pipeline.toml"
    service: Annotated[str, _text(r"^[\w.:-]+$", "PIPELINE or PIPELINE.STEP")] = "embeddings"
    cpus: Positive = 4
    memory_gib: Positive = 16
    min_workers: Count = 0
    max_workers: Positive = 8
    gpu_workers: Count = 0
    idle_seconds: Positive = 120
    deadline_seconds: Positive = 86400
    redis: str = ""


@_data
class Made:
    """What AWS named: outputs of the stacks ``network`` and ``filesystem``, and an image of a machine with Penstock."""

    subnet: Annotated[str, _text(r"^subnet-[0-9a-f]{8,17}$", 'an output of the stack network, as "subnet-0123..."')]
    security_group: Annotated[str, _text(r"^sg-[0-9a-f]{8,17}$", 'an output of the stack network, as "sg-0123..."')]
    file_system: Annotated[str, _text(r"^fs-[0-9a-f]{8,17}$", 'an output of the stack filesystem, as "fs-0123..."')]
    ray_image: Annotated[str, _text(r"^ami-[0-9a-f]{8,17}$", 'an AMI that has Penstock and Ray, as "ami-0123..."')]


@_data
class Deployment:
    """Everything; what artefacts are made of."""

    name: Name
    region: Annotated[str, _text(r"^[a-z]{2}(-[a-z]+)+-\d$", 'a region of AWS, as "eu-central-1"')]
    storage: Storage
    filesystem: Filesystem = Filesystem()
    network: Network = Network()
    budget: Budget
    cluster: Cluster
    ray: Ray
    kubernetes: Kubernetes
    made: Made


def load(file: Path) -> Deployment:
    """Read *file*.

    Raises:
        SpecError: it is not there, is no TOML, or says what cannot be understood.
    """
    try:
        return loads(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise SpecError(
            f"{file} cannot be read ({error.strerror}); a deploy.toml was needed: copy deploy/deploy.toml of Penstock"
        ) from error


def loads(text: str, name: str = "deploy.toml") -> Deployment:
    """The same from its text."""
    try:
        return TypeAdapter(Deployment).validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{name}: no TOML was found: {error}") from error
    except ValidationError as error:
        raise SpecError("\n".join(_words(name, one) for one in error.errors())) from error


def _words(name: str, error: ErrorDetails) -> str:
    where = ".".join(str(step) for step in error["loc"])
    found, kind = error["input"], error["type"]
    if kind in ("missing", "missing_argument"):
        return f"{name}: {where} is missing; {_needed(error['loc'])} was needed: add it"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name}: {where} is not known{_near(error['loc'])}; remove it or write it right"
    if kind == "value_error" and isinstance(found, Mapping | ArgsKwargs):
        return f"{name}: {where}: {error['msg'].removeprefix('Value error, ')}"
    return f"{name}: {where} is {found!r}; {_needed(error['loc'])} was needed: change it"


def _needed(trail: tuple[int | str, ...]) -> str:
    known = _field(trail)
    return (known and known.description) or "a table with the keys that docs/infra.md lists"


def _near(trail: tuple[int | str, ...]) -> str:
    owner = _owner(trail[:-1])
    names = [] if owner is None else [held.name for held in dataclasses.fields(owner)]
    near = difflib.get_close_matches(str(trail[-1]), names, 1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"


def _field(trail: tuple[int | str, ...]) -> Any:
    owner = _owner(trail[:-1])
    return None if owner is None or not trail else owner.__pydantic_fields__.get(str(trail[-1]))


def _owner(trail: tuple[int | str, ...]) -> Any:
    """The dataclass at the end of *trail*."""
    owner: Any = Deployment
    for step in trail:
        if isinstance(step, int):
            continue
        field = owner.__pydantic_fields__.get(step)
        owner = next(iter(_dataclasses(field.annotation)), None) if field else None
        if owner is None:
            return None
    return owner


def _dataclasses(kind: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(kind):
        yield kind
    for inner in getattr(kind, "__args__", ()):
        yield from _dataclasses(inner)
