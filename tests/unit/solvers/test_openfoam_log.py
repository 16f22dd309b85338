"""What a solver printed, as OpenFOAM 1912 prints it."""

import math

import pytest

from penstock.solvers.openfoam.log import Log, fault

STEP = """Time = 0.01

Courant Number mean: 0.0046371875619 max: 0.00543280434087
smoothSolver:  Solving for Ux, Initial residual = 0.000793866624545, Final residual = 8.68686044188e-13, No Iterations 2
GAMG:  Solving for p, Initial residual = 0.00320314214004, Final residual = 2.11965010491e-05, No Iterations 2
time step continuity errors : sum local = 3.34621209554e-10, global = 1.31861855648e-20, cumulative = 1.32263358074e-21
GAMG:  Solving for p, Initial residual = 2.10177865481e-05, Final residual = 3.24095053795e-08, No Iterations 5
time step continuity errors : sum local = 4.73706067461e-13, global = -2.3173050806e-20, cumulative = -2.18504172252e-20
ExecutionTime = 0.01 s  ClockTime = 0 s
"""
FATAL = """
--> FOAM FATAL ERROR:
Attempt to return dictionary entry as a primitive

    From function virtual Foam::ITstream& Foam::dictionaryEntry::stream() const
    in file db/dictionary/dictionaryEntry/dictionaryEntry.H at line 146.

FOAM aborting
"""
FATAL_IO = """
--> FOAM FATAL IO ERROR:
Cannot find patchField entry for frontAndBack

file: /case/0/U.boundaryField from line 20 to line 25.

    From function Foam::GeometricField<Type, PatchField, GeoMesh>::Boundary::readField()

FOAM exiting
"""


def test_steps_errors_and_residuals_are_told():
    log = Log.of(STEP + STEP.replace("0.01\n", "0.02\n", 1))
    assert log.times == (0.01, 0.02)
    assert log.courant == (0.00543280434087,) * 2
    assert log.continuity == (3.34621209554e-10, 4.73706067461e-13) * 2
    assert log.cumulative[:2] == (1.32263358074e-21, -2.18504172252e-20)
    assert [residual.iterations for residual in log.residuals["p"]] == [2, 5, 2, 5]
    assert log.residuals["Ux"][0].solver == "smoothSolver"
    assert log.residuals["Ux"][0].initial == 0.000793866624545


def test_a_log_of_nothing():
    assert Log.of("") == Log()
    assert fault("", 0, "icoFoam") == ""
    assert fault(STEP, 0, "icoFoam") == ""


@pytest.mark.parametrize(
    ("text", "code", "found"),
    [
        (STEP + FATAL, 1, "icoFoam gave up at time 0.01: Attempt to return dictionary entry as a primitive"),
        (FATAL_IO, 1, "icoFoam gave up: Cannot find patchField entry for frontAndBack file: /case/0/U.boundaryField"),
        (STEP, -8, "icoFoam met a floating point exception at time 0.01; a smaller deltaT"),
        (STEP + "#1  Foam::sigFpe::sigHandler(int) at ??:?", 136, "a floating point exception"),
        (STEP.replace("max: 0.0", "max: 7.0"), -8, "the Courant number was 7"),
        (STEP, -9, "icoFoam was ended by signal 9 at time 0.01"),
        (STEP + "cannot allocate\n\n", 3, "icoFoam ended with status 3 at time 0.01: cannot allocate"),
        ("", 3, "it printed nothing"),
        (STEP.replace("Iterations 5", "Iterations 1001"), 0, "did not converge: GAMG for p ended at 3.24095e-08 after"),
        (STEP.replace("= 8.68686044188e-13", "= nan"), 0, "did not converge: smoothSolver for Ux ended at nan"),
    ],
)
def test_the_first_wrong_thing_is_found(text, code, found):
    assert found in fault(text, code, "icoFoam")


def test_numbers_that_are_none_are_read():
    assert math.isnan(Log.of("Courant Number mean: nan max: nan\n").courant[0])
