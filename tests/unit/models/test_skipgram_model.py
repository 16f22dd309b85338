import math

import numpy as np
import pytest

from penstock.models import skipgram
from penstock.models.skipgram import Chunk, learn, likeness

MASK = (1 << 64) - 1


def random_bits(seed):
    """SplitMix64 by Python's whole numbers."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        yield mixed ^ (mixed >> 31)


def naive(chunk, inputs, outputs, window, negatives, rate):
    """The same steps, each written down as the paper has it, in double precision."""
    inputs, outputs, bits = inputs.astype(float), outputs.astype(float), random_bits(chunk.seed)
    losses, pairs, start = [], 0, 0
    for end in chunk.ends:
        sentence = range(start, end)
        for center in sentence:
            reach = 1 + next(bits) % window
            for other in [p for p in sentence if p != center and abs(p - center) <= reach]:
                hidden = inputs[chunk.parts[chunk.tokens[center]]].sum(0)
                change, loss = np.zeros_like(hidden), 0.0
                right = chunk.tokens[other]
                drawn = [chunk.drawn[next(bits) % len(chunk.drawn)] for _ in range(negatives)]
                targets = [right, *(target for target in drawn if target != right)]
                scores = [float(hidden @ outputs[chunk.parts[target]].sum(0)) for target in targets]
                for at, (target, score) in enumerate(zip(targets, scores, strict=True)):
                    loss += math.log1p(math.exp(score if at else -score))
                    gradient = ((0 if at else 1) - 1 / (1 + math.exp(-score))) * rate
                    for row in chunk.parts[target]:
                        change += gradient * outputs[row]
                        outputs[row] += gradient * hidden
                for row in chunk.parts[chunk.tokens[center]]:
                    inputs[row] += change
                pairs += 1
                losses += [loss] if center % 8 == 0 else []
        start = end
    return inputs, outputs, float(np.mean(losses)) if losses else 0.0, pairs


def chunk_of(seed=0, ids=12, parts=1, tokens=60, rows=20):
    random = np.random.default_rng(seed)
    ends = np.array([7, 7, 30, tokens])
    return Chunk(
        random.integers(rows, size=(ids, parts)),
        random.integers(ids, size=tokens),
        ends,
        random.integers(ids, size=9),
        5,
    )


def tables(rows=20, dim=6, seed=1):
    random = np.random.default_rng(seed)
    return [random.standard_normal((rows, dim)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("parts", [1, 3], ids=["one row an id", "three rows an id"])
@pytest.mark.parametrize("window", [1, 4])
def test_what_is_learned_is_what_the_paper_says(parts, window):
    chunk, (inputs, outputs) = chunk_of(parts=parts), tables()
    wanted = naive(chunk, inputs, outputs, window, 3, 0.05)
    loss, pairs = learn(chunk, inputs, outputs, window=window, negatives=3, rate=0.05)
    np.testing.assert_allclose(inputs, wanted[0], atol=1e-4)
    np.testing.assert_allclose(outputs, wanted[1], atol=1e-4)
    assert loss == pytest.approx(wanted[2], rel=1e-4)
    assert pairs == wanted[3]


def test_compiled_and_plain_code_are_one():
    one, other = tables(), tables()
    compiled = learn(chunk_of(), *one, window=3, negatives=2, rate=0.1)
    with np.errstate(over="ignore"):
        chunk = chunk_of()
        plain = skipgram._learn(
            chunk.parts, chunk.tokens, chunk.ends, chunk.drawn, np.uint64(chunk.seed), *other, 3, 2, np.float32(0.1)
        )
    assert compiled == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_small_step_goes_down_the_gradient_of_the_loss():
    chunk = Chunk(np.arange(3)[:, None], np.array([0, 1]), np.array([2]), np.array([2]), 3)
    inputs, outputs = tables(rows=3)

    def loss(inputs, outputs):
        total = 0.0
        for center, other in ((0, 1), (1, 0)):
            total += math.log1p(math.exp(-float(inputs[center] @ outputs[other])))
            total += math.log1p(math.exp(float(inputs[center] @ outputs[2])))
        return total

    before, rate = inputs.astype(float), 1e-4
    learn(chunk, inputs, outputs.copy(), window=1, negatives=1, rate=rate)
    for row in range(2):
        for d in range(6):
            nudge = np.zeros_like(before)
            nudge[row, d] = 1e-5
            slope = (loss(before + nudge, outputs) - loss(before - nudge, outputs)) / 2e-5
            assert (inputs[row, d] - before[row, d]) / rate == pytest.approx(-slope, abs=0.02)


def test_the_same_chunk_gives_the_same_bits():
    one, other = tables(), tables()
    assert learn(chunk_of(), *one, window=5, negatives=5, rate=0.1) == learn(
        chunk_of(), *other, window=5, negatives=5, rate=0.1
    )
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_a_chunk_without_tokens_teaches_nothing():
    chunk = Chunk(np.empty((0, 1), np.int64), *[np.empty(0, np.int64)] * 3, 0)
    inputs, outputs = tables()
    assert learn(chunk, inputs, outputs, window=5, negatives=5, rate=0.1) == (0.0, 0)
    assert math.isnan(likeness(chunk, inputs, outputs, 5))


def test_likeness_is_one_where_neighbours_score_highest_and_a_half_where_nothing_is_known():
    ring = np.arange(10)
    chunk = Chunk(ring[:, None], ring, np.array([10]), np.array([0, 9]), 1)
    zeros = np.zeros((10, 4), np.float32)
    assert likeness(chunk, zeros, zeros, 2) == 0.5
    near = np.exp(-((ring[:, None] - ring) ** 2).astype(np.float32))
    inner = Chunk(ring[:, None], ring[3:7], np.array([4]), np.array([0, 9]), 1)
    assert likeness(inner, np.eye(10, dtype=np.float32), near, 1) == 1.0


def test_pairs_are_those_of_two_loops():
    tokens, ends = np.array([4, 5, 6, 7, 8, 9]), np.array([2, 2, 6])
    one, other = skipgram._pairs(tokens, ends, 2)
    wanted = {
        (int(tokens[i]), int(tokens[j]))
        for start, end in ((0, 2), (2, 6))
        for i in range(start, end)
        for j in range(start, end)
        if i != j and abs(i - j) <= 2
    }
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == wanted
    assert len(one) == len(wanted)


def test_likeness_of_many_pairs_is_that_of_those_drawn():
    random = np.random.default_rng(7)
    tokens = random.integers(0, 50, 30_000)
    chunk = Chunk(np.arange(50)[:, None], tokens, np.array([30_000]), tokens[:500], 1)
    inputs, outputs = (random.standard_normal((50, 8)).astype(np.float32) for _ in range(2))
    one, other = skipgram._pairs(tokens, chunk.ends, 3)
    wrong = chunk.drawn[random.integers(500, size=len(one))]
    wanted = np.mean((inputs[one] * outputs[other]).sum(1) > (inputs[one] * outputs[wrong]).sum(1))
    assert len(one) > 5 * skipgram._JUDGED
    assert likeness(chunk, inputs, outputs, 3) == pytest.approx(wanted, abs=0.015)
