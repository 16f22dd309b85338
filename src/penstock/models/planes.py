"""Locality-sensitive hashing of k-mers as in LSHvec: planes through points of the data, one bit for each side.

A base is a complex number, A -1, T +1, C -i, G +i, so a k-mer is a point of C^k, and its reverse complement is the
point read backwards times -1. A plane goes through k sampled k-mers. The hash of a k-mer on both strands is the
smaller one of its own and its reverse complement's.
Source: https://github.com/Lizhen0909/LSHVec (rand_proj.py).

Two things are otherwise, for good reasons. Planes are kept in fixed point: sums of integers are the same in any
order, so a k-mer has the same hash on every machine, where in floating point the very k-mers that a plane goes
through would fall to either side. And the bits may be cut into bands, each with a canonical strand of its own: a
change of one base that moves some bits leaves the other bands as they are.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.storage import store_of
from penstock.errors import StorageError, WeightsError
from penstock.models.kmers import LONGEST, Bytes, Ints, Letters, Seeds, Strand, codes, compiled

__all__ = ["Planes", "fit", "load", "save"]

Fixed: TypeAlias = npt.NDArray[np.int32]

_FORMAT, _VERSION = "penstock-planes", 1
_ONE = 1 << 17
"""1.0 in fixed point. A normal vector and its offset have length 1, so a sum over 31 bases stays below 2^20."""
_LANE = 21
"""Bits in which one sum lies: three of them share a word of 64, and are added by one addition."""
_BLOCK = 4
"""Bases whose share of the sums is looked up at once: 4^4 entries for each, which stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes and where they come from; an artefact, part of every model that is trained on its hashes.

    Attributes:
        normals: real and imaginary part of each plane's normal vector, int32 fixed point, ``"bit base 2"``.
        offsets: each plane's distance from the origin, real part, ``"bit"``.
        bands: into how many hashes the bits are cut; one is LSHvec's own.
        seed: of the sampling.
        source: what the k-mers were sampled from.
    """

    normals: Fixed
    offsets: Fixed
    bands: int
    seed: int
    source: str

    @property
    def span(self) -> int:
        """k: bases in a window."""
        return int(self.normals.shape[1])

    @property
    def bits(self) -> int:
        """Bits of one band."""
        return len(self.normals) // self.bands

    @property
    def sha256(self) -> str:
        """Hash (hex) of what hashes depend on."""
        shape = np.array([*self.normals.shape, self.bands], "<i8").tobytes()
        return hashlib.sha256(
            shape + self.normals.astype("<i4").tobytes() + self.offsets.astype("<i4").tobytes()
        ).hexdigest()

    def ids(self, letters: Letters, strand: Strand = "canonical") -> tuple[Ints, Ints]:
        """The hashes of all windows without a foreign letter, ``"window"``, and how many each row has, ``"row"``.

        Bit *s* of a hash is set where a k-mer lies above plane *s*; the first band takes the lowest bits.
        """
        counts = np.zeros(letters.rows, np.int64)
        ids = np.empty(letters.room(self.span), np.int64)
        behind, tables = self._tables
        given = letters.values, letters.offsets, codes(), self.span, strand == "canonical"
        found = compiled(_hashed)(*given, behind, tables, self.bands, self.bits, ids, counts)
        return ids[:found], counts

    @functools.cached_property
    def shares(self) -> Fixed:
        """What each base at each place adds to each sum: ``"strand bit base code"``, codes in the order A, C, G, T.

        The real part of a base times a conjugate: A and T take minus and plus the real part, C and G the imaginary.
        """
        real, imaginary = self.normals[..., 0], self.normals[..., 1]
        forward = np.stack([-real, -imaginary, imaginary, real], -1)
        return np.stack([forward, forward[:, ::-1, ::-1]])

    @functools.cached_property
    def _tables(self) -> tuple[Ints, Ints]:
        """How many bases stand behind each block, and its shares, packed: ``"block word lanes"``.

        The last block overlaps the one before it, and adds nothing for the bases that it has in common with it.
        """
        size = min(_BLOCK, self.span)
        begins = sorted({*range(0, self.span - size + 1, size), self.span - size})
        words = np.arange(4**size)
        sums = np.zeros((len(begins), len(words), *self.shares.shape[:2]), np.int64)
        # Now the highest bit of a lane says whether its sum is above 0, and no lane ever borrows from the next one.
        sums[0] += (1 << _LANE - 1) - 1 - self.offsets
        done = 0
        for block, begin in enumerate(begins):
            for at in range(max(begin, done), begin + size):
                code = words >> 2 * (size - 1 - at + begin) & 3
                sums[block] += np.moveaxis(self.shares[:, :, at, :], -1, 0)[code]
            done = begin + size
        return np.array([self.span - begin - size for begin in begins]), _packed(sums)


def _packed(sums: Ints) -> Ints:
    """Three sums to a word, those of each strand apart: ``"block word strand bit"`` to ``"block word lanes"``."""
    room = np.zeros((*sums.shape[:3], -(-sums.shape[3] // 3) * 3), np.int64)
    room[..., : sums.shape[3]] = sums
    lanes = room.reshape(*sums.shape[:2], -1, 3) << np.arange(3) * _LANE
    return np.ascontiguousarray(lanes.sum(-1))


def fit(letters: Letters, k: int, bits: int = 22, *, bands: int = 1, seed: int = 0, source: str = "") -> Planes:
    """Planes through k-mers of the data: ``2 k bits bands`` of them are sampled, and k drawn for each plane.

    The null vector of the k points with a column of -1 is the plane; LSHvec leaves its phase to the linear algebra
    library, here it is drawn too, so that the same seed gives the same planes.

    Raises:
        ValueError: k, bits or bands are out of bounds, or the data have no k bases in a row.
    """
    if not (2 <= k <= LONGEST and bits >= 1 and bands >= 1 and bits * bands <= 63):
        raise ValueError(
            f"k = {k} must be 2 to {LONGEST}, and bits x bands = {bits} x {bands} at least 1 and at most 63"
        )
    ids, _ = Seeds.plain(k).ids(letters, "forward")
    if not len(ids):
        raise ValueError(f"there are no {k} bases in a row to put planes through; give longer sequences or a smaller k")
    dice = np.random.Generator(np.random.PCG64(seed))
    sample = _points(ids[dice.integers(0, len(ids), 2 * k * bits * bands)], k)
    planes = np.array([_plane(sample[dice.permutation(len(sample))[:k]], dice.random()) for _ in range(bits * bands)])
    fixed = np.rint(np.stack([planes.real, planes.imag], -1) * _ONE).astype(np.int32)
    return Planes(np.ascontiguousarray(fixed[:, :k]), np.ascontiguousarray(fixed[:, k, 0]), bands, seed, source)


def _points(ids: Ints, k: int) -> npt.NDArray[np.complex128]:
    """Points of C^k, ``"kmer base"``."""
    return np.asarray(np.array([-1, -1j, 1j, 1])[ids[:, None] >> 2 * np.arange(k - 1, -1, -1) & 3])


def _plane(points: npt.NDArray[np.complex128], turn: float) -> npt.NDArray[np.complex128]:
    """Normal vector and offset of length 1 together, ``"base + 1"``: ``points . conj(normal) = offset``."""
    k = len(points)
    matrix = np.zeros((k + 1, k + 1), complex)
    matrix[:k, :k], matrix[:k, k] = points, -1
    null = np.linalg.svd(matrix)[2][-1].conj()
    null = null * np.exp(2j * np.pi * turn - 1j * np.angle(null[k] if abs(null[k]) > 1e-9 else null[0]))
    return np.concatenate([null[:k].conj(), null[k:]])


def save(planes: Planes, uri: str) -> None:
    """Publish *planes* at *uri* as an ``.npz`` file. What lies there is never replaced: a model depends on it.

    Raises:
        StorageError: other planes lie there, or it cannot be written.
    """
    facts = {"format": _FORMAT, "version": _VERSION, "k": planes.span, "bits": planes.bits, "bands": planes.bands}
    facts |= {"seed": planes.seed, "source": planes.source, "sha256": planes.sha256}
    file = io.BytesIO()
    about = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(file, about=about, normals=planes.normals, offsets=planes.offsets)
    if not store_of(uri).create(uri, file.getvalue()) and load(uri).sha256 != planes.sha256:
        raise StorageError(f"cannot write {uri}: other planes lie there, on which models may depend; take another name")


def load(uri: str) -> Planes:
    """The planes at *uri*.

    Raises:
        WeightsError: there are none, they are damaged, or of a newer version.
    """
    entry = store_of(uri).entry(uri)
    if entry is None:
        raise WeightsError(f"there are no planes at {uri}; make them with 'penstock planes fit'")
    return _load(uri, entry.etag)


@functools.lru_cache(maxsize=8)
def _load(uri: str, etag: str) -> Planes:
    """*etag* keeps planes of one content apart from those of another."""
    facts, normals, offsets = _unpacked(uri, store_of(uri).read(uri) or b"")
    if facts.get("version") != _VERSION:
        raise WeightsError(
            f"{uri} has planes of version {facts.get('version')}, {_VERSION} was needed; update Penstock"
        )
    planes = Planes(normals, offsets, facts["bands"], facts["seed"], facts["source"])
    if planes.sha256 != facts["sha256"]:
        raise WeightsError(f"{uri} is damaged: its planes have not the sha256 that it says; copy it afresh")
    return planes


def _unpacked(uri: str, data: bytes) -> tuple[Mapping[str, Any], Fixed, Fixed]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            facts = json.loads(file["about"].tobytes())
            if facts["format"] == _FORMAT:
                return facts, file["normals"], file["offsets"]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{uri} is no file of planes, or cut short: {error}; make it with 'penstock planes fit'"
        ) from error
    raise WeightsError(f"{uri} is no file of planes but of '{facts['format']}'; make it with 'penstock planes fit'")


def _hashed(  # noqa: PLR0917 (compiled functions take arguments by place)
    values: Bytes,
    offsets: Ints,
    codes: Bytes,
    span: int,
    both: bool,
    behind: Ints,
    tables: Ints,
    bands: int,
    bits: int,
    ids: Ints,
    counts: Ints,
) -> int:  # pragma: no cover (compiled)
    blocks, words, lanes = tables.shape
    half = lanes // 2
    sums = np.empty(lanes, np.int64)
    mask, some, found = (1 << (2 * span)) - 1, (1 << bits) - 1, 0
    for row in range(len(counts)):
        first, good, forward = found, 0, 0
        for at in range(offsets[row], offsets[row + 1]):
            code: Any = np.int64(codes[values[at]])
            good = 0 if code > 3 else good + 1
            forward = ((forward << 2) | (code & 3)) & mask
            if good < span:
                continue
            word = (forward >> (2 * behind[0])) & (words - 1)
            for lane in range(lanes):
                sums[lane] = tables[0, word, lane]
            for block in range(1, blocks):
                word = (forward >> (2 * behind[block])) & (words - 1)
                for lane in range(lanes):
                    sums[lane] += tables[block, word, lane]
            mine, other = 0, 0
            for lane in range(half):
                # The highest bits of three lanes, brought together by one multiplication.
                mine |= ((((sums[lane] >> 20) & 0x40000200001) * 0x40000400004 >> 42) & 7) << (3 * lane)
                other |= ((((sums[half + lane] >> 20) & 0x40000200001) * 0x40000400004 >> 42) & 7) << (3 * lane)
            whole = 0
            for band in range(bands):
                left, right = (mine >> (band * bits)) & some, (other >> (band * bits)) & some
                whole |= (min(left, right) if both else left) << (band * bits)
            ids[found] = whole
            found += 1
        counts[row] = found - first
    return found
