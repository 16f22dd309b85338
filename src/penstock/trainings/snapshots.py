"""Snapshots of plane flow, held in memory as stream functions, and the team that learns from them.

A training of a generator says how one step is done (`Learner`); in which order rows are seen, what is told, when a
version is published and how a training that was killed goes on is here (`Course`), the same for all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import field_of, tensor_type
from penstock.core.dataset import existing, publish_part
from penstock.core.nouns import Part, Team
from penstock.core.reading import read_arrays
from penstock.core.storage import join, local_copy, publish
from penstock.errors import SchemaError, UnitError
from penstock.models import generator, stream
from penstock.models.generator import Config, Generator
from penstock.models.layers import Tensor
from penstock.trainings.history import History
from penstock.trainings.versions import notes_of, prune, publish_version

__all__ = ["Course", "Learner", "Recipe", "Snapshots", "averaged", "plane_of"]

Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_HELD_OUT = 16
"""One row of so many, the last ones, is not learned from."""
_FEWEST = 8
_READ_ROWS = 256
_TOLD_SECONDS = 30.0
_KEPT = 2
_MEANWHILE = "training"


class Recipe(Protocol):
    """What a training of a generator says of itself, as `Course` needs it."""

    @property
    def source(self) -> str:
        """The dataset that is learned from."""

    @property
    def uri(self) -> str:
        """Where the model is published."""

    @property
    def epochs(self) -> int:
        """How often all rows are gone through."""

    @property
    def batch_rows(self) -> int:
        """Rows of a step in each worker."""

    @property
    def seed(self) -> int:
        """Of all draws."""

    @property
    def publish_minutes(self) -> float:
        """Between two versions at most."""

    def schema(self, given: pa.Schema) -> pa.Schema:
        """See `penstock.core.nouns.Training`."""


class Learner(Protocol):
    """One worker's networks."""

    def step(self, rows: Ints, number: int, share: float) -> Mapping[str, float]:
        """Learn from *rows*; collective. *number* counts steps, *share* of the training is over before it."""

    def asked(self) -> Mapping[str, float]:
        """How good the networks are on rows that are held out."""

    def state(self) -> Mapping[str, Any]:
        """All that `restore` needs, as torch saves it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what gave *state*."""

    def finished(self) -> Generator:
        """The generator, at the end."""


def plane_of(schema: pa.Schema, column: str, who: str, wavenumber: int) -> int:
    """Points along a side of the fields of *column*. Raises `SchemaError` where it holds no plane flow."""
    kind = field_of(schema, column, who).type
    shape = list(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else []
    if len(shape) != 3 or shape[0] != 2 or shape[1] != shape[2] or kind.value_type != pa.float32():
        raise SchemaError(f"{who} needs column '{column}' as float32[2, n, n], u and v; it is {kind}")
    n = int(shape[1])
    if n < 32 or n & (n - 1):
        raise SchemaError(
            f"{who}: the fields of '{column}' have {n} x {n} points; a power of 2, 32 or more, was needed"
        )
    if n % (2 * wavenumber):
        raise SchemaError(
            f"{who}: half a period of a forcing with wavenumber {wavenumber} is no whole number of the {n} points a "
            "side; choose another wavenumber or size"
        )
    field_of(schema, "viscosity", who, pa.float64())
    return n


@dataclass(frozen=True)
class Snapshots:
    """Stream functions and what belongs to them.

    Attributes:
        psi: float32, ``"row y x"``.
        later: the same a short while later; None where the dataset has none.
        viscosity: ``"row"``.
        learned: so many rows, the first ones, are learned from; the others are held out.
    """

    psi: Tensor
    later: Tensor | None
    viscosity: Doubles
    learned: int

    @classmethod
    def read(cls, uri: str, column: str, later: str) -> Snapshots:
        """All rows of the dataset at *uri*.

        Raises:
            UnitError: there are too few, or numbers that are no numbers.
        """
        import torch

        manifest = existing(uri)
        if manifest.rows < _FEWEST:
            raise UnitError(f"{uri}: {manifest.rows} rows; {_FEWEST} or more were needed to learn from")
        columns = [column, *([later] if later in manifest.schema.names else []), "viscosity"]
        parts: dict[str, list[Any]] = {name: [] for name in columns}
        for start in range(0, manifest.rows, _READ_ROWS):
            arrays = read_arrays(manifest, start, min(start + _READ_ROWS, manifest.rows), columns)
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise UnitError(f"{uri}: '{name}' has numbers that are not finite in rows {start} and after")
                parts[name].append(stream.stream_of(torch.from_numpy(array)) if name != "viscosity" else array)
        viscosity = np.concatenate(parts["viscosity"]).astype(np.float64)
        if viscosity.min() <= 0:
            raise UnitError(f"{uri}: a viscosity of {viscosity.min()}; numbers above 0 were needed")
        found = torch.cat(parts[column])
        held_out = max(manifest.rows // _HELD_OUT, 1)
        pairs = torch.cat(parts[later]) if later in parts else None
        return cls(found, pairs, viscosity, manifest.rows - held_out)

    def config(self, model: Literal["psi_vae", "psi_stylegan"], sizes: Mapping[str, int], source: str) -> Config:
        """What a generator that learns from these is."""
        import torch

        psi, viscosity = self.psi[: self.learned], self.viscosity[: self.learned]
        squares = torch.stack([_squares(part) for part in psi.split(_READ_ROWS)]).sum(0) / self.learned
        logs = np.log(viscosity)
        return Config(
            model=model,
            size=psi.shape[-1],
            velocity=math.sqrt(squares[0]),
            vorticity=math.sqrt(squares[1]),
            log_viscosity=_scale(logs),
            viscosities=(float(viscosity.min()), float(viscosity.max())),
            source=source,
            **sizes,
        )


def _squares(psi: Tensor) -> Tensor:
    """Sums over rows of the mean u.u and the mean squared vorticity."""
    import torch

    speed = stream.velocity(psi).double().square().sum(-3).mean((1, 2)).sum()
    return torch.stack([speed, stream.vorticity(psi).double().square().mean((1, 2)).sum()])


def flow_of(psi: Tensor, config: Config) -> Tensor:
    """u, v and vorticity of stream functions, each of about unit size, ``"row 3 y x"``."""
    import torch

    speed = stream.velocity(psi) * (math.sqrt(2) / config.velocity)
    return torch.cat([speed, stream.vorticity(psi)[:, None] / config.vorticity], 1)


def averaged(team: Team, weights: Sequence[Tensor]) -> None:
    """Put the mean over the team in place of the gradients of *weights*; added up in the order of ranks."""
    import torch

    if team.size == 1:
        return
    given = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
    flat = torch.cat([one.reshape(-1) for one in given]).cpu().numpy()
    came = team.exchange(np.array_split(flat, team.size))
    mean = np.asarray(np.sum(came, axis=0, dtype=np.float32) / np.float32(team.size))
    whole = torch.from_numpy(np.concatenate(team.exchange([mean] * team.size)))
    for one, part in zip(weights, whole.split([one.numel() for one in weights]), strict=True):
        one.grad = part.view(one.shape).to(one.device)


class Course:
    """A training from where it stands to its end, in one worker."""

    def __init__(self, recipe: Recipe, team: Team, learner: Learner, rows: int) -> None:
        self.recipe, self.team, self.learner, self.rows = recipe, team, learner, rows
        self.fingerprint = fingerprint_of(recipe)
        self.in_epoch = max(rows // (recipe.batch_rows * team.size), 1)
        self.sums: dict[str, float] = {}
        self.number = self._restored()
        self.history = History(recipe.uri, self.epoch)
        self.told = self.published = time.monotonic()

    @property
    def epoch(self) -> float:
        """How often all rows were gone through."""
        return self.number / self.in_epoch

    def run(self) -> None:
        """Go on to the end; collective."""
        last = self.recipe.epochs * self.in_epoch
        while self.number < last:
            for name, value in self.learner.step(self._lesson(), self.number, self.number / last).items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.sums["steps"] = self.sums.get("steps", 0.0) + 1
            self.number += 1
            self._tell(self.number == last)

    def _lesson(self) -> Ints:
        """Our rows of this step."""
        epoch, step = divmod(self.number, self.in_epoch)
        order = np.random.default_rng([self.recipe.seed, 1, epoch]).permutation(self.rows)
        first = (step * self.team.size + self.team.rank) * self.recipe.batch_rows
        return order.take(np.arange(first, first + self.recipe.batch_rows), mode="wrap")

    def _tell(self, last: bool) -> None:
        """Metrics now and then, a version every few minutes and at the end; by rank 0's clock."""
        now = self.team.gather(time.monotonic())[0]
        if now - self.told > _TOLD_SECONDS or last:
            self._report()
            self.told = now
        if now - self.published > self.recipe.publish_minutes * 60 or last:
            if self.team.rank == 0:
                self._finish() if last else self._publish()
            self.team.gather(None)
            self.published = now

    def _report(self) -> None:
        steps = max(self.sums.pop("steps", 0.0), 1.0)
        ours = {name: value / steps for name, value in self.sums.items()} | dict(self.learner.asked())
        every = self.team.gather(ours)
        metrics = {"epoch": self.epoch} | {name: sum(each[name] for each in every) / len(every) for name in ours}
        if self.team.rank == 0:
            self.history.add(metrics)
        self.sums = {}
        self.team.report(metrics)

    def _restored(self) -> int:
        import torch

        uri = join(self.recipe.uri, _MEANWHILE)
        notes = notes_of(uri, self.fingerprint)
        if notes is None:
            return 0
        with local_copy(join(uri, existing(uri).parts()["path"][0].as_py())) as file:
            self.learner.restore(torch.load(file, map_location="cpu", weights_only=True))
        self.sums = dict(notes["sums"]) if self.team.rank == 0 else {}
        return int(notes["number"])

    def _publish(self) -> None:
        """How far we are."""
        import torch

        uri, state = join(self.recipe.uri, _MEANWHILE), dict(self.learner.state())
        part = publish_part(uri, ".pt", lambda path: torch.save(state, path), 0)
        self._commit(uri, part)

    def _finish(self) -> None:
        """The folder for readers comes before the version that says that all is done."""
        made = self.learner.finished()
        self._commit(self.recipe.uri, _published(self.recipe, made, card(self.recipe, made.config, self.history.lines)))
        prune(join(self.recipe.uri, _MEANWHILE), 0)

    def _commit(self, uri: str, part: Part) -> None:
        schema = self.recipe.schema(existing(self.recipe.source).schema)
        notes = {"training": self.fingerprint, "number": self.number, "sums": self.sums}
        publish_version(uri, part, schema, notes, _KEPT)


def fingerprint_of(recipe: Any) -> str:
    """The identity of a training on its data."""
    plain = {name: value for name, value in asdict(recipe).items() if name not in recipe.ASIDE}
    text = json.dumps([type(recipe).__name__, plain, existing(recipe.source).sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def result_schema(n: int) -> pa.Schema:
    """What `generate` makes with the result."""
    return pa.schema([("velocity", tensor_type("float32", 2, n, n))])


def card(recipe: Any, config: Config, lines: Sequence[Mapping[str, float]]) -> str:
    """What is known of the weights, for those who are given them."""
    manifest, given = existing(recipe.source), cast("Any", recipe)
    plain = {name: value for name, value in asdict(given).items() if name not in {*given.ASIDE, "source", "uri"}}
    settings = "\n".join(f"| {name} | {value} |" for name, value in plain.items())
    told = "\n".join(f"| {name} | {value:.4g} |" for name, value in (lines[-1] if lines else {}).items())
    low, high = config.viscosities
    which = f"the viscosity {low:g}" if low == high else f"viscosities from {low:g} to {high:g}"
    return (
        f"---\nlicense: apache-2.0\n---\n# {config.model}: plane Kolmogorov flow, "
        f"{config.size} x {config.size} points\n\n"
        f"A generator of velocity fields in a periodic box, forced by sin({config.wavenumber} y), for "
        f"{which}. The step `generate` loads this folder.\n\n"
        f"Trained by Penstock on {manifest.rows} rows (parts table sha256 {manifest.parts_sha256[:16]}).\n\n"
        f"| setting | value |\n|---|---|\n{settings}\n\n| told at the end | value |\n|---|---|\n{told}\n"
    )


def _published(recipe: Recipe, made: Generator, text: str) -> Part:
    """Put the folder to its place, the weights last; they are the version's part too."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:
        folder = Path(name)
        generator.save(made, folder, text)
        weights = folder / "model.safetensors"
        for path in [*sorted(set(folder.iterdir()) - {weights}), weights]:
            with publish(recipe.uri, path.suffix) as (scratch, upload):
                scratch.write_bytes(path.read_bytes())
                upload(path.name)

        def copy(target: Path) -> None:
            target.write_bytes(weights.read_bytes())

        return publish_part(recipe.uri, ".safetensors", copy, 0)


def found_at(recipe: Recipe) -> bool:
    """Whether what *recipe* trains is published."""
    return notes_of(recipe.uri, fingerprint_of(recipe)) is not None


def _scale(logs: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and deviation; that of equal numbers is 0, and not what rounding makes of it."""
    if np.ptp(logs) < 1e-9:
        return float(logs[0]), 0.0
    return float(logs.mean()), float(logs.std())
