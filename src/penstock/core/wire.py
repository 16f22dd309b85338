"""What passes between a step and a stage that is somewhere else: Arrow IPC streams, and JSON in their metadata.

A request is one stream: the batch. An answer is one stream, the rows that went through; where rows were refused, a
second one with these, as they were received. The metadata of the first stream's schema say how it went::

    penstock.outcome = {"status": "ok"}
                       {"status": "rows", "reasons": ["no sequence", ...]}        then a second stream
                       {"status": "error", "kind": "ValueError", "text": "..."}   then no rows

A request without columns asks nothing but whether the stage is open; it is answered as it came.

Streams follow each other in a pipe or a body without anything between them, since each says itself where it ends
(https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format). It is JSON and Arrow and never pickle, so
both sides may run other versions of Python, of Penstock, and of everything else.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa

from penstock import errors
from penstock.core.batch import to_bytes
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors, UnitError

__all__ = ["GREETING", "answered", "asked", "heard", "received"]

GREETING: Batch = pa.table({})
"""Asks whether the stage is open."""

_OUTCOME = b"penstock.outcome"


def asked(batch: Batch) -> bytes:
    """*batch* as a request."""
    return bytes(to_bytes(batch))


def received(stream: BinaryIO) -> Batch | None:
    """The next table of *stream*; None at its end.

    Raises:
        UnitError: what is there is no Arrow stream, or ends in the middle.
    """
    head = stream.read(1)
    if not head:
        return None
    try:
        with pa.ipc.open_stream(_Pushed(head, stream)) as reader:
            return reader.read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnitError(f"no Arrow IPC stream could be read: {error}; each batch must be a whole one") from error


class _Pushed:
    """A stream with its first byte put back; as pyarrow wants files to be."""

    closed = False

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        """Exactly *size* bytes, unless the stream ends."""
        head, self._head = self._head[:size] if size >= 0 else self._head, self._head[size:] if size >= 0 else b""
        rest = self._stream.read(size - len(head)) if size != len(head) else b""
        return head + (rest or b"")

    def close(self) -> None:
        """The stream stays open for what follows."""


def answered(transform: Transform, batch: Batch) -> bytes:
    """What *transform* makes of *batch*, as an answer; whatever it raises is an answer too."""
    if not batch.num_columns:
        return _told(batch, {"status": "ok"})
    try:
        return _told(transform(batch), {"status": "ok"})
    except RowErrors as refusal:
        return _told(refusal.good, {"status": "rows", "reasons": refusal.reasons}) + bytes(to_bytes(refusal.bad))
    except Exception as error:  # the boundary to other people's stages
        said = {"status": "error", "kind": type(error).__name__, "text": str(error)}
        return _told(batch.schema.empty_table(), said)


def _told(batch: Any, outcome: Mapping[str, Any]) -> bytes:
    if not isinstance(batch, pa.Table):
        raise errors.SchemaError(f"the stage gave a {type(batch).__name__}; a pyarrow.Table was needed")
    metadata = {**(batch.schema.metadata or {}), _OUTCOME: json.dumps(outcome).encode()}
    return bytes(to_bytes(batch.replace_schema_metadata(metadata)))


def heard(stream: BinaryIO) -> Batch:
    """The batch of the answer that comes next in *stream*.

    Raises:
        RowErrors: the stage refused some rows.
        Exception: what the stage raised: an error of Penstock's or Python's by its own name, any other by a class of
            that name, so that the reason in the quarantine is the same everywhere.
        EOFError: the other side has ended.
    """
    found = _part(stream, "without an answer")
    metadata = dict(found.schema.metadata or {})
    said = json.loads(metadata.pop(_OUTCOME, b'{"status": "ok"}'))
    batch = found.replace_schema_metadata(metadata or None)
    if said["status"] == "ok":
        return batch
    if said["status"] == "rows":
        raise RowErrors(batch, _part(stream, "before it said which rows it refused"), said["reasons"])
    raise _error(said["kind"], said["text"])


def _part(stream: BinaryIO, when: str) -> Batch:
    """The next table of an answer. Raises `EOFError` where the other side ended *when* it had to come."""
    try:
        found = received(stream)
    except UnitError as error:
        raise EOFError(f"the stage ended in the middle of an answer ({error})") from error
    if found is None:
        raise EOFError(f"the stage ended {when}")
    return found


def _error(kind: str, text: str) -> Exception:
    """An error that is called *kind* and reads *text*, of the class of that name where there is one."""
    for place in (errors, builtins):
        found = getattr(place, kind, None)
        if isinstance(found, type) and issubclass(found, Exception) and found is not RowErrors:
            with suppress(TypeError):  # such as UnicodeDecodeError, which wants five arguments
                return _reading(found, text)
    return _reading(type(kind, (Exception,), {}), text)


def _reading(kind: type[Exception], text: str) -> Exception:
    """Of *kind*; KeyError would put its text into quotes, and that has been done on the other side."""
    error = kind(text)
    return error if str(error) == text else type(kind.__name__, (kind,), {"__str__": lambda _: text})(text)
