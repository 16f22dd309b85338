"""Skip-gram with negative sampling, one chunk of text at a time.

Mikolov, Sutskever, Chen, Corrado and Dean (2013), https://arxiv.org/abs/1310.4546. Each token predicts the
tokens in a window of random width around it, against tokens drawn at random. The rows that a chunk needs
are brought together first; what is learned from it is the difference of these rows afterwards. So a chunk can
be worked on wherever the rows of a table lie, and the differences of several workers can be added.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Chunk", "Floats", "Ints", "learn", "likeness"]

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

_TOLD = 8
_JUDGED = 20_000


@dataclass(frozen=True)
class Chunk:
    """Some sentences, and what is drawn at random beside them.

    Attributes:
        parts: for each different id of the chunk the places of its rows in the arrays that `learn` is given,
            int64, ``"id part"``; the vector of an id is the sum of its rows.
        tokens: the sentences one after the other, as indices of *parts*; int64, ``"token"``.
        ends: where each sentence ends; int64, ``"sentence"``.
        drawn: indices of *parts* from which negatives are drawn; int64, ``"draw"``.
        seed: of all that is random.
    """

    parts: Ints
    tokens: Ints
    ends: Ints
    drawn: Ints
    seed: int


def learn(
    chunk: Chunk, inputs: Floats, outputs: Floats, *, window: int, negatives: int, rate: float
) -> tuple[float, int]:
    """Change *inputs* and *outputs*, both ``"row dim"``, in place; the mean loss, in nats, and the pairs.

    The loss of a pair is ``-log s(h.v) - sum log s(-h.n)``, with h from the inputs, the context's v and the
    negatives' n from the outputs, and s the logistic function; it is told over the pairs of every eighth token, since
    a logarithm costs as much as a pair. The same arguments give the same bits.
    """
    loss, pairs = _compiled()(
        chunk.parts, chunk.tokens, chunk.ends, chunk.drawn, np.uint64(chunk.seed), inputs, outputs,
        window, negatives, np.float32(rate),
    )  # fmt: skip
    return float(loss), int(pairs)


def likeness(chunk: Chunk, inputs: Floats, outputs: Floats, window: int) -> float:
    """How often a token next to another scores higher than one drawn at random; 0.5 is chance, 1 is perfect.

    The area under the ROC curve over pairs at most *window* apart, each against one draw; of more than 20,000 pairs
    as many are drawn, which leaves a standard error below 0.004.
    """
    centers, contexts = _pairs(chunk.tokens, chunk.ends, window)
    if not len(centers):
        return math.nan
    random = np.random.default_rng(chunk.seed)
    if len(centers) > _JUDGED:
        judged = random.integers(len(centers), size=_JUDGED)
        centers, contexts = centers[judged], contexts[judged]
    others = chunk.drawn[random.integers(len(chunk.drawn), size=len(centers))]
    vectors, answers = inputs[chunk.parts].sum(axis=1), outputs[chunk.parts].sum(axis=1)
    right = np.einsum("pd,pd->p", vectors[centers], answers[contexts])
    wrong = np.einsum("pd,pd->p", vectors[centers], answers[others])
    return float((right > wrong).mean() + (right == wrong).mean() / 2)


def _pairs(tokens: Ints, ends: Ints, window: int) -> tuple[Ints, Ints]:
    """All pairs of tokens of one sentence at most *window* apart, both ways."""
    sentence = np.searchsorted(ends, np.arange(len(tokens)), side="right")
    left, right = [], []
    for distance in range(1, min(window, len(tokens) - 1) + 1):
        here = np.flatnonzero(sentence[distance:] == sentence[:-distance])
        left.append(here)
        right.append(here + distance)
    if not left:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, other = np.concatenate(left), np.concatenate(right)
    return tokens[np.concatenate([one, other])], tokens[np.concatenate([other, one])]


# --- compiled code ---------------------------------------------------------------------------------------
# Plain functions, which Python can run too. Rows are reached by two indices, the first of them looked up before the
# loop: a view of a row would be counted in and out each time, and a look-up inside keeps the compiler from using
# vector instructions. All scores of a pair come before its changes: so no row waits for the one before, and the
# processor works on several at a time.


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Compiled at the first call; the machine code is kept beside this file's bytecode."""
    from numba import njit
    from numba.extending import register_jitable

    for plain in (_step, _draw, _score, _judge):
        register_jitable(plain)
    for function in (_dot, _take, _give, _trade):
        register_jitable(fastmath=True)(function)
    compiled: Callable[..., Any] = njit(cache=True)(_learn)
    return compiled


def _step(state: Any) -> Any:
    """SplitMix64 (Steele, Lea and Flood 2014): the next state, and 64 bits made of it by a mixing function."""
    state += np.uint64(0x9E3779B97F4A7C15)
    mixed = state
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, mixed ^ (mixed >> np.uint64(31))


def _draw(targets: Any, drawn: Any, state: Any) -> Any:
    """Negatives behind the first target, which they are not; the next state, and how many targets there are."""
    count = 1
    for _ in range(len(targets) - 1):
        state, bits = _step(state)
        targets[count] = drawn[int(bits % np.uint64(len(drawn)))]
        count += targets[count] != targets[0]
    return state, count


def _score(  # noqa: PLR0917 (compiled functions take arguments by place)
    scores: Any, hidden: Any, rows: Any, parts: Any, targets: Any, count: Any
) -> None:
    for at in range(count):
        score = np.float32(0)
        for part in range(parts.shape[1]):
            score += _dot(hidden, rows, parts[targets[at], part])
        scores[at] = score


def _judge(gains: Any, count: Any, rate: Any, told: Any) -> Any:
    """Scores become what is learned from them; the loss when it is told, and 0."""
    one, loss = np.float32(1), 0.0
    for at in range(count):
        score, label = gains[at], np.float32(at == 0)
        small = np.exp(-abs(score))
        chance = (one if score > 0 else small) / (one + small)
        if told:
            loss += np.log(one + small) + max((1 - 2 * label) * score, np.float32(0))
        gains[at] = (label - chance) * rate
    return loss


def _dot(vector: Any, rows: Any, row: Any) -> Any:
    """``vector . row``."""
    total = np.float32(0)
    for d in range(len(vector)):
        total += vector[d] * rows[row, d]
    return total


def _take(vector: Any, rows: Any, row: Any) -> None:
    """``vector += row``."""
    for d in range(len(vector)):
        vector[d] += rows[row, d]


def _give(rows: Any, row: Any, vector: Any) -> None:
    """``row += vector``."""
    for d in range(len(vector)):
        rows[row, d] += vector[d]


def _trade(change: Any, rows: Any, row: Any, factor: Any, vector: Any) -> None:
    """``change += factor * row`` and ``row += factor * vector``, in one go."""
    for d in range(len(vector)):
        before = rows[row, d]
        change[d] += factor * before
        rows[row, d] = before + factor * vector[d]


def _learn(  # noqa: PLR0917  (one loop over pairs, in which calls would cost as much as the work)
    parts: Any, tokens: Any, ends: Any, drawn: Any, state: Any, inputs: Any, outputs: Any, window: Any,
    negatives: Any, rate: Any,
) -> Any:  # fmt: skip
    dim, width = inputs.shape[1], parts.shape[1]
    hidden, change, gains = np.empty(dim, np.float32), np.empty(dim, np.float32), np.empty(negatives + 1, np.float32)
    targets = np.empty(negatives + 1, np.int64)
    loss, losses, pairs, start = 0.0, 0, 0, 0
    for end in ends:
        for center in range(start, end):
            state, bits = _step(state)
            reach = 1 + int(bits % np.uint64(window))
            told = center % _TOLD == 0
            for other in range(max(start, center - reach), min(end, center + reach + 1)):
                if other == center:
                    continue
                targets[0] = tokens[other]
                state, count = _draw(targets, drawn, state)
                hidden[:] = 0
                change[:] = 0
                for part in range(width):
                    _take(hidden, inputs, parts[tokens[center], part])
                _score(gains, hidden, outputs, parts, targets, count)
                loss += _judge(gains, count, rate, told)
                for at in range(count):
                    for part in range(width):
                        _trade(change, outputs, parts[targets[at], part], gains[at], hidden)
                for part in range(width):
                    _give(inputs, parts[tokens[center], part], change)
                pairs += 1
                losses += told
        start = end
    return loss / max(losses, 1), pairs
