"""The steps that are served, where in a pipeline file they stand, and how a batch goes through them.

Each row carries a mark, a column that no step knows of. So the answer's rows are told apart whatever a step
leaves out or adds, and requests of many clients can be put together and taken apart again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from penstock.core.nouns import Batch, Pipeline, Place, Step, Transform
from penstock.core.spec import Spec
from penstock.core.work import Live as Opens
from penstock.core.work import here, sift
from penstock.errors import PenstockError, PlanError, SchemaError, SpecError
from penstock.serving.size import TOKENS

__all__ = ["MARK", "Chain", "Live", "Refused", "Schemas", "Sifted", "chain_at", "marked", "opened"]

MARK = "penstock.row"


@dataclass(frozen=True)
class Refused:
    """A row that a step refused: its mark, the step, and why."""

    row: int
    step: str
    reason: str


@dataclass(frozen=True)
class Sifted:
    """What came of a batch: the rows that went through, marked, and those that did not."""

    good: Batch
    bad: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class Chain:
    """Neighbouring steps of a pipeline.

    Attributes:
        pipeline: the pipeline's name.
        steps: what is done, in this order.
        given: the columns that a request may have.
        first: the number of the first step in its pipeline, from 1, as in reports.
    """

    pipeline: str
    steps: tuple[Step, ...]
    given: pa.Schema
    first: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The steps' names, as reports and quarantine folders have them."""
        return tuple(f"{number}-{step.name}" for number, step in enumerate(self.steps, self.first))

    def schemas(self, given: pa.Schema) -> tuple[pa.Schema, ...]:
        """The columns before the first step and after each. Raises `SchemaError`."""
        found = [given]
        for name, step in zip(self.names, self.steps, strict=True):
            try:
                found.append(step.stage.schema(found[-1]))
            except SchemaError as error:
                raise SchemaError(f"step {name}: {error}") from error
        return tuple(found)

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a request must have: without them some step cannot work."""
        return tuple(name for name in self.given.names if not self._takes(_without(self.given, name)))

    def _takes(self, given: pa.Schema) -> bool:
        try:
            self.schemas(given)
        except SchemaError:
            return False
        return True

    @property
    def merges(self) -> bool:
        """Whether rows of several requests may share a batch: no step compares rows with each other."""
        return not any(getattr(step.stage, "across_rows", False) for step in self.steps)

    def cut(self) -> tuple[Chain, Chain]:
        """The steps up to the one that makes tokens, and those after it, if both are some.

        The former are cheap, and done first they tell how much work a request is.
        """
        line = self.schemas(self.given)
        made = next((at for at, schema in enumerate(line) if TOKENS in schema.names), 0)
        at = made if made < len(self.steps) else 0
        return replace(self, steps=self.steps[:at]), replace(
            self, steps=self.steps[at:], given=line[at], first=self.first + at
        )

    @property
    def place(self) -> Place:
        """What one worker needs in which all these steps are open; a ``function`` rides along."""
        return Place.joint(self.steps)


def _without(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.remove(schema.get_field_index(name))


# --- in a pipeline file ----------------------------------------------------------------------------------


def chain_at(spec: Spec, address: str = "", given: pa.Schema | None = None) -> Chain:
    """The chain that *address* names.

    Args:
        spec: the pipeline file.
        address: ``PIPELINE`` for its leading steps, as many as work row by row; ``PIPELINE.STEP`` for one, or
            ``PIPELINE.STEP:STEP`` for a range, both ends taken, either left out; a STEP is a name or a number
            from 1. ``PIPELINE`` may be left out where it is clear.
        given: the columns of a request, instead of those that the pipeline has at that place.

    Raises:
        SpecError: there is no such pipeline or step, or it needs a whole dataset and not single rows.
        PlanError: the columns of a request cannot be told.
    """
    pipeline, words = _found(spec, address)
    first, stop = _range(pipeline, words)
    chain = Chain(pipeline.name, pipeline.steps[first:stop], given or _given(pipeline, first), first + 1)
    count = _row_by_row(chain)
    if count == 0 or (words and count < len(chain.steps)):
        raise SpecError(
            f"{pipeline.name}: step {chain.names[count]} needs a whole dataset and gives rows of its own, so it cannot "
            "be served; name a range of steps before it, as in pipeline.toml#NAME.1:2"
        )
    return replace(chain, steps=chain.steps[:count])


def _found(spec: Spec, address: str) -> tuple[Pipeline, str]:
    """The pipeline, and what the address says of its steps."""
    for pipeline in spec.pipelines:
        if address == pipeline.name or address.startswith(f"{pipeline.name}."):
            return pipeline, address[len(pipeline.name) + 1 :]
    words = address.removeprefix(".")
    named = [p for p in spec.pipelines if not words or set(words.split(":")) - {""} <= {s.name for s in p.steps}]
    if len(named) == 1:
        return named[0], words
    there = ", ".join(f"{p.name} ({', '.join(s.name for s in p.steps) or 'no steps'})" for p in spec.pipelines)
    what = f"'{address}' names no pipeline and no step of one alone" if address else "the file has several pipelines"
    raise SpecError(f"{what}; write FILE#PIPELINE or FILE#PIPELINE.STEP; there are: {there}")


def _range(pipeline: Pipeline, words: str) -> tuple[int, int]:
    """The steps that *words* name, as a range from 0."""
    low, colon, high = words.partition(":")
    first = _position(pipeline, low) if low else 0
    if not colon:
        high = low
    stop = _position(pipeline, high) + 1 if high else len(pipeline.steps)
    if first >= stop:
        raise SpecError(f"{pipeline.name}: no steps lie in '{words}'; there are: {_listed(pipeline)}")
    return first, stop


def _position(pipeline: Pipeline, word: str) -> int:
    if word.isdecimal() and 1 <= int(word) <= len(pipeline.steps):
        return int(word) - 1
    at = [index for index, step in enumerate(pipeline.steps) if step.name == word]
    if len(at) != 1:
        problem = "there is no step" if not at else f"{len(at)} steps are called"
        raise SpecError(f"{pipeline.name}: {problem} '{word}'; give one of: {_listed(pipeline)}")
    return at[0]


def _listed(pipeline: Pipeline) -> str:
    return ", ".join(f"{n} ({step.name})" for n, step in enumerate(pipeline.steps, 1)) or "none"


def _given(pipeline: Pipeline, first: int) -> pa.Schema:
    try:
        schema = pipeline.source.schema()
        for step in pipeline.steps[:first]:
            schema = step.stage.schema(schema)
    except PenstockError as error:
        raise PlanError(
            f"{pipeline.name}: the columns of a request cannot be told ({error}); say them by --column NAME=TYPE"
        ) from error
    return schema


def _row_by_row(chain: Chain) -> int:
    """How many of the leading steps carry the mark on; what takes a reference to a dataset refuses or drops it."""
    plain, schema = chain.schemas(chain.given), chain.given.append(_MARK_FIELD)
    for count, step in enumerate(chain.steps):
        try:
            schema = step.stage.schema(schema)
        except SchemaError:  # it takes the columns without the mark, or `plain` would not be there
            return count
        if MARK not in schema.names:
            return count
    return len(plain) - 1


# --- at work ---------------------------------------------------------------------------------------------

_MARK_FIELD = pa.field(MARK, pa.int64())


def marked(batch: Batch, marks: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Batch:
    """*batch* with *marks*, one for each row, in the place of those that it has."""
    at = batch.schema.get_field_index(MARK)
    column = pa.array(marks, pa.int64())
    return batch.append_column(_MARK_FIELD, column) if at < 0 else batch.set_column(at, _MARK_FIELD, column)


@dataclass(frozen=True)
class Schemas:
    """The columns along a chain; clients send few different ones, so the answers are kept."""

    chain: Chain
    _known: dict[pa.Schema, tuple[pa.Schema, ...]] = field(default_factory=dict)

    def __call__(self, given: pa.Schema) -> tuple[pa.Schema, ...]:
        """As `Chain.schemas`."""
        if given not in self._known:
            if len(self._known) >= 256:
                self._known.clear()
            if MARK in given.names:
                self.chain.schemas(_without(given, MARK))  # an error speaks of the client's columns alone
            self._known[given] = self.chain.schemas(given)
        return self._known[given]


@dataclass(frozen=True)
class Live:
    """A chain with its models loaded; call it with a marked batch."""

    schemas: Schemas
    transforms: tuple[Transform, ...]

    def __call__(self, batch: Batch) -> Sifted:
        """Carry *batch* through; rows that fail alone are told and cost no other row.

        Raises:
            PenstockError: it is no row's fault.
        """
        bad: list[Refused] = []
        line = zip(self.schemas.chain.names, self.transforms, self.schemas(batch.schema)[1:], strict=True)
        for name, transform, schema in line:
            batch, refused = sift(transform, batch, schema, batch.num_rows)
            bad += [
                Refused(mark, name, reason)
                for rows, reasons in refused
                for mark, reason in zip(rows[MARK].to_pylist(), reasons, strict=True)
            ]
        return Sifted(batch, tuple(bad))


@contextmanager
def opened(chain: Chain, opens: Opens = here) -> Iterator[Live]:
    """Load what the steps need; *opens* says where each is."""
    with ExitStack() as stack:
        yield Live(Schemas(chain), tuple(stack.enter_context(opens(step)) for step in chain.steps))
