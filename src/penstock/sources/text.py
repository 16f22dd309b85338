"""Text, JSON Lines and CSV: files in which a line is a row.

Formats: https://jsonlines.org and https://www.rfc-editor.org/rfc/rfc4180, but no value goes over a line end.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from penstock.core.batch import type_named
from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Uri
from penstock.errors import PenstockError, SchemaError, SpecError, UnitError
from penstock.sources import records
from penstock.sources.records import LINES, Form, Sorted, not_utf8, shown

__all__ = ["Csv", "Jsonl", "Text"]

_TEXT = pa.schema([("text", pa.string())])
_BOM = b"\xef\xbb\xbf"
_MOST_BAD = 1000
"""Each line that fails alone costs some dozen calls of the parser; wrong columns fail everywhere."""
_LINE = pa.schema([("line", pa.string())])


@dataclass(frozen=True)
class Text:
    """Lines of text files: the column ``text``. Empty lines are rows too, so that the nth row is the nth line.

    Lines that are not UTF-8 are quarantined.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.txt .text .log .md`` and ``.gz``.
        unit_bytes: size of a unit; a compressed file is one unit.
    """

    uri: Uri
    unit_bytes: int = 8 << 20

    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        """``text``."""
        return _TEXT

    def units(self) -> Iterator[Unit]:
        """Byte ranges."""
        return records.cut(self.uri, (".txt", ".text", ".log", ".md"), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        """The lines that begin in *unit*. Raises `UnitError` or `RowErrors`."""
        return records.read(unit, _TEXT_FORM)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The lines of the first MiB."""
        return records.sample(unit, _TEXT_FORM)


@dataclass(frozen=True)
class Jsonl:
    """Objects of JSON Lines files, one a line. A key that a line lacks is null; keys that are not named are left out.

    Lines that are no object, or do not fit the types, are quarantined as ``line``.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.jsonl .ndjson`` and ``.gz``.
        columns: names and Arrow types, such as ``{ id = "string", score = "float64", tags = "list<string>" }``.
        unit_bytes: size of a unit; a compressed file is one unit.
    """

    uri: Uri
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    unit_bytes: int = 8 << 20

    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        """The columns. Raises `SchemaError`, which proposes some when there are none."""
        if not self.columns:
            raise _no_columns("jsonl", self.uri, self._inferred)
        return _schema(self.columns)

    def units(self) -> Iterator[Unit]:
        """Byte ranges."""
        return records.cut(self.uri, (".jsonl", ".ndjson"), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        """The objects that begin in *unit*. Raises `UnitError` or `RowErrors`."""
        return records.read(unit, self._form)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The objects of the first MiB."""
        return records.sample(unit, self._form)

    @property
    def _form(self) -> Form:
        schema = self.schema()
        return Form(schema, LINES, partial(_parse_lines, schema, partial(_read_jsonl, schema)))

    def _inferred(self) -> pa.Schema:
        block = _first_lines(next(self.units()))
        return pa.json.read_json(pa.py_buffer(block), _json_reading(block)).schema


@dataclass(frozen=True)
class Csv:
    """Rows of CSV files. The first line of each file names its columns; those that are not asked for are left out.

    An empty number is null, an empty text is empty. Lines that do not fit are quarantined as ``line``. A quoted
    value must end on its line: a unit in which one does not is refused.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.csv .tsv`` and ``.gz``.
        columns: names and Arrow types, such as ``{ id = "string", length = "int64" }``.
        delimiter: one character between values.
        unit_bytes: size of a unit; a compressed file is one unit.
    """

    uri: Uri
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    delimiter: str = ","
    unit_bytes: int = 8 << 20

    ASIDE = ("unit_bytes",)

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise SpecError(f"delimiter = {self.delimiter!r}: one character, no quote and no line end, was needed")

    def schema(self) -> pa.Schema:
        """The columns. Raises `SchemaError`, which proposes some when there are none."""
        if not self.columns:
            raise _no_columns("csv", self.uri, self._inferred)
        schema = _schema(self.columns)
        for column in schema:
            if pa.types.is_nested(column.type):
                raise SchemaError(f"csv cannot hold column '{column.name}' of type {column.type}; read it as string")
        return schema

    def units(self) -> Iterator[Unit]:
        """Byte ranges."""
        return records.cut(self.uri, (".csv", ".tsv"), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        """The lines that begin in *unit*. Raises `UnitError` or `RowErrors`."""
        return records.read(unit, self._form(unit))

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The lines of the first MiB."""
        return records.sample(unit, self._form(unit))

    def _form(self, unit: Unit) -> Form:
        schema = self.schema()
        return Form(schema, LINES, partial(_parse_csv, schema, partial(_read_csv, self, self._header(unit))))

    def _header(self, unit: Unit) -> list[str]:
        """The names in the first line of the unit's file."""
        line = _first_line(unit)
        names = next(csv.reader([shown(records.plain(0, line).strip(b"\n"))], delimiter=self.delimiter), [])
        for name in self.columns if line else ():
            if names.count(name) != 1:
                raise UnitError(
                    f"{unit.uri}: column '{name}' stands {names.count(name)} times in the first line, once was needed; "
                    f"there are: {', '.join(names) or 'none'}"
                )
        return names

    def _inferred(self) -> pa.Schema:
        unit = next(self.units())
        block, options = _first_lines(unit), pa.csv.ParseOptions(delimiter=self.delimiter)
        reading = pa.csv.ReadOptions(use_threads=False, block_size=len(block) + 1)
        return pa.csv.read_csv(pa.py_buffer(block), reading, options).schema


# --- text ------------------------------------------------------------------------------------------------


def _parse_text(at: int, block: bytes) -> Sorted:
    block = records.plain(at, block).removesuffix(b"\n")
    if not_utf8(block):
        return _parse_text_one_by_one(block)
    lines = pc.split_pattern(pa.array([block], pa.string()), "\n").flatten()
    return Sorted(pa.table([lines], _TEXT), _TEXT.empty_table(), [])


def _parse_text_one_by_one(block: bytes) -> Sorted:
    lines = [(line, not_utf8(line)) for line in block.split(b"\n")]
    good = pa.table([pa.array([shown(line) for line, reason in lines if not reason], pa.string())], _TEXT)
    bad = pa.table([pa.array([shown(line) for line, reason in lines if reason], pa.string())], _TEXT)
    return Sorted(good, bad, [reason for _, reason in lines if reason])


_TEXT_FORM = Form(_TEXT, LINES, _parse_text)


# --- lines with columns ----------------------------------------------------------------------------------

_Read: TypeAlias = Callable[[int, bytes], pa.Table]
"""The rows of whole lines, one each, and the position of the first; raises ValueError when that cannot be."""


def _schema(columns: Mapping[str, str]) -> pa.Schema:
    plain = {"timestamp": "timestamp[us]"}
    schema = pa.schema([(name, type_named(plain.get(kind, kind))) for name, kind in columns.items()])
    for column in schema:
        if isinstance(column.type, pa.BaseExtensionType):
            raise SchemaError(f"text files hold no tensors, as column '{column.name}' is; read it as list<float32>")
    return schema


def _parse_lines(schema: pa.Schema, read: _Read, at: int, block: bytes) -> Sorted:
    """All lines at once; where that fails the lines that fail alone are told from the others by halving."""
    good, bad = _sift(read, at, block)
    lines = pa.table([pa.array([shown(line) for _, line, _ in bad], pa.string())], _LINE)
    reasons = [f"the line at byte {position:,}: {reason}" for position, _, reason in bad]
    return Sorted(pa.concat_tables([schema.empty_table(), *good]), lines, reasons)


def _sift(read: _Read, at: int, block: bytes) -> tuple[list[pa.Table], list[tuple[int, bytes, str]]]:
    if not block.strip(b"\r\n"):
        return [], []
    try:
        return [read(at, block)], []
    except (ValueError, pa.ArrowException) as error:
        cut = _middle(block)
        if not cut:
            return [], [(at, block.rstrip(b"\r\n"), str(error))]
    left, left_bad = _sift(read, at, block[:cut])
    if len(left_bad) > _MOST_BAD:
        position, line, reason = left_bad[0]
        raise UnitError(
            f"more than {_MOST_BAD:,} lines near one another fail, the first of them at byte {position:,}: {reason}: "
            f"{shown(line[:60])!r}; mend 'columns', or lower unit_bytes if so many are to be quarantined"
        )
    right, right_bad = _sift(read, at + cut, block[cut:])
    return left + right, left_bad + right_bad


def _middle(block: bytes) -> int:
    """Where a line begins near the middle of *block*; 0 when it has only one."""
    half = len(block) // 2
    cut = (block.rfind(b"\n", 0, half) + 1) or (block.find(b"\n", half) + 1)
    return cut if cut < len(block) else 0


def _lines(block: bytes) -> pa.Array:
    """The lines of *block* that are not empty."""
    lines = pc.split_pattern(pa.array([block], pa.binary()), b"\n").flatten()
    return lines.filter(pc.invert(pc.is_in(lines, value_set=pa.array([b"", b"\r"]))))


def _first_line(unit: Unit) -> bytes:
    first = replace(unit, start=0)
    with records.opened(first) as file:
        return next((block for _, block in records.blocks(file, 0, min(unit.stop, 1), LINES)), b"")


def _first_lines(unit: Unit) -> bytes:
    """Whole lines of the first MiB."""
    with records.opened(unit) as file:
        return b"".join(block for _, block in records.blocks(file, 0, 1 << 20, LINES))


def _no_columns(use: str, uri: str, infer: Callable[[], pa.Schema]) -> SchemaError:
    try:
        seen = f"the first file would go with\n  columns = {{ {', '.join(_proposed(infer()))} }}"
    except (PenstockError, pa.ArrowException) as error:
        seen = f'write columns = {{ name = "string" }} (none can be proposed: {error})'
    return SchemaError(f"the {use} source needs the names and types of the columns to read from {uri}; {seen}")


def _proposed(schema: pa.Schema) -> Iterator[str]:
    for name, kind in ((found.name, _called(found.type)) for found in schema):
        if kind:
            yield f'{name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)} = "{kind}"'


def _called(kind: pa.DataType) -> str:
    """The name of a type as `type_named` knows it, or nothing."""
    if pa.types.is_list(kind):
        inner = _called(kind.value_type)
        return f"list<{inner}>" if inner else ""
    if pa.types.is_nested(kind):
        return ""
    names = {pa.float64(): "float64", pa.null(): "string", pa.date32(): "date32"}
    return names.get(kind, "timestamp" if pa.types.is_timestamp(kind) else str(kind))


# --- JSON Lines ------------------------------------------------------------------------------------------


def _json_reading(block: bytes) -> pa.json.ReadOptions:
    return pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1)


def _read_jsonl(schema: pa.Schema, at: int, block: bytes) -> pa.Table:
    """One row a line. Arrow joins and splits lines where JSON lets it; the braces and the count tell."""
    if fault := not_utf8(block):  # Arrow does not look
        raise ValueError(fault)
    block = block.replace(_BOM, b"   ", 1) if at == 0 and block.startswith(_BOM) else block
    lines = pc.ascii_trim_whitespace(_lines(block).cast(pa.string()))
    if not pc.all(pc.and_(pc.starts_with(lines, "{"), pc.ends_with(lines, "}"))).as_py():
        raise ValueError("one JSON object on one line, {...}, was needed")
    parsing = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    table = pa.json.read_json(pa.py_buffer(block), _json_reading(block), parsing)
    if table.num_rows != len(lines):
        raise ValueError("there is more than one JSON object on the line")
    return table.select(schema.names).cast(schema)


# --- CSV -------------------------------------------------------------------------------------------------


def _parse_csv(schema: pa.Schema, read: _Read, at: int, block: bytes) -> Sorted:
    """The lines without the file's first one."""
    skipped = len(block.partition(b"\n")[0]) + 1 if at == 0 else 0
    return _parse_lines(schema, read, at + skipped, block[skipped:])


def _read_csv(source: Csv, names: list[str], at: int, block: bytes) -> pa.Table:
    """One row a line. Arrow joins and splits lines at quotes and lone CRs; the checks and the count tell."""
    lines = _lines(block)
    if block.count(b"\r") != block.count(b"\r\n"):
        raise ValueError("a carriage return stands inside the line")
    if b'"' in block:
        _check_quotes(lines, source.delimiter, f"the line at byte {at:,}")
    table = pa.csv.read_csv(
        pa.py_buffer(block),
        pa.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
        pa.csv.ParseOptions(delimiter=source.delimiter),
        pa.csv.ConvertOptions(column_types=source.schema(), include_columns=list(source.columns)),
    )
    if table.num_rows != len(lines):
        raise ValueError("a line ends inside a quoted value")
    return table


def _check_quotes(lines: pa.Array, delimiter: str, where: str) -> None:
    """Refuse lines that the next one would be joined to; only the last is looked at closely, halving finds the others.

    Raises:
        UnitError: there is one line, and it ends inside a quoted value.
        ValueError: some line is wrong.
    """
    if not _closed(delimiter).fullmatch(lines[-1].as_py()):
        if len(lines) > 1:
            raise ValueError("a line ends inside a quoted value")
        raise UnitError(
            f"{where} ends inside a quoted value, but csv needs each row on one line; take the line ends out of the "
            "values, or convert the file to Parquet or JSON Lines"
        )
    if pc.any(pc.bit_wise_and(pc.count_substring(lines, b'"'), 1).cast(pa.bool_())).as_py():
        raise ValueError("a quote stands inside a value that is not quoted")


@cache
def _closed(delimiter: str) -> re.Pattern[bytes]:
    """A line in which every value that begins with a quote has its closing one.

    Without possessive quantifiers: Python 3.11 before 3.11.5, Debian's too, gets those around a choice wrong.
    """
    cut = re.escape(delimiter.encode())
    value = rb"(?:\"[^\"]*(?:\"\"[^\"]*)*\"(?!\")(?:(?!%b).)*|(?!\"|%b).(?:(?!%b).)*)?" % (cut, cut, cut)
    return re.compile(rb"%b(?:%b%b)*" % (value, cut, value), re.DOTALL)
