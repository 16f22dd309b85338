"""Judgements of fields whose quality is known."""

import numpy as np
import pytest

from penstock.flows.baselines import random_phase
from penstock.flows.judging import Sample, judge
from penstock.flows.kolmogorov import Kolmogorov, random_start
from penstock.flows.statistics import Physics

PHYSICS = Physics(0.03, 0.1, 1.0, 2)


@pytest.fixture(scope="module")
def flows():
    solver = Kolmogorov(32, (0.03,), 0.04, wavenumber=2, precision="float32")
    state = solver.advance(solver.state(np.stack([random_start(32, seed) for seed in range(48)])), 8.0)
    return solver.velocity(state), solver.velocity(solver.advance(state, 0.04))


@pytest.fixture(scope="module")
def found(flows):
    now, later = flows
    truth, mine = (
        Sample(name, now[part], later[part], 0.04) for name, part in (("truth", np.s_[:32]), ("mine", np.s_[32:]))
    )
    return judge(mine, truth, PHYSICS, training=Sample("training", now[30:], later[30:], 0.04))


def test_true_fields_are_better_than_the_baseline(found):
    for name in ("mean equation", "equation residual", "energy budget, mean"):
        assert found.value(name, "mine") < 0.5 * found.value(name, "random phase")


def test_the_baseline_has_the_spectrum_of_the_truth(found):
    assert found.value("E(k), worst shell to 16", "random phase") < 1e-4
    assert found.value("kinetic energy", "random phase") < 1e-5


def test_every_figure_has_a_noise_floor(found):
    assert found.samples == {"mine": 16, "truth": 32, "random phase": 32}
    assert all(line.values["truth"] >= 0 for line in found.lines)


def test_a_copy_of_the_training_set_is_seen(found):
    assert found.value("nearest training field", "mine") < 1e-3
    assert found.value("nearest training field", "truth") > 0.1


def test_fields_without_variety_cover_less(flows):
    now, _ = flows
    one = Sample("one", np.repeat(now[32:33], 16, 0))
    found = judge(one, Sample("truth", now[:32]), PHYSICS)
    assert found.value("coverage", "one") < 0.5 * found.value("coverage", "truth")
    assert {line.name for line in found.lines}.isdisjoint({"equation residual", "nearest training field"})


def test_twice_the_speed_is_four_times_the_energy(flows):
    now, _ = flows
    found = judge(Sample("fast", 2 * now), Sample("truth", now), PHYSICS)
    assert found.value("kinetic energy", "fast") == pytest.approx(3, rel=1e-4)
    assert found.value("E(k), worst shell to 16", "fast") == pytest.approx(3, rel=1e-3)
    assert found.value("flatness, r = 2", "fast") == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("generated", "truth", "text"),
    [
        ((1, 16), (8, 16), "8 true and 1 generated fields; 4 and 2 or more were needed"),
        ((8, 16), (8, 32), r"the generated fields are \(2, 16, 16\), the true ones \(2, 32, 32\); the same grid"),
    ],
)
def test_what_cannot_be_compared_is_refused(generated, truth, text):
    samples = [Sample("x", np.zeros((count, 2, n, n))) for count, n in (generated, truth)]
    with pytest.raises(ValueError, match=text):
        judge(*samples, PHYSICS)


def test_random_phases_keep_the_type(flows):
    assert random_phase(flows[0], 1).dtype == np.float32
