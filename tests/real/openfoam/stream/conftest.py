"""A small channel and a small periodic box as OpenFOAM cases."""

import tempfile
from pathlib import Path

import pytest

HEAD = "FoamFile {{ version 2.0; format ascii; class {}; object {}; }}\n"
SCHEMES = """
ddtSchemes {default Euler;} gradSchemes {default Gauss linear;} divSchemes {default none; div(phi,U) Gauss linear;
div((nuEff*dev2(T(grad(U))))) Gauss linear;}
laplacianSchemes {default Gauss linear orthogonal;} interpolationSchemes {default linear;}
snGradSchemes {default orthogonal;}
"""
SOLUTION = """
solvers { p {solver PCG; preconditioner DIC; tolerance 1e-10; relTol 0;} pFinal {$p;}
 U {solver smoothSolver; smoother symGaussSeidel; tolerance 1e-12; relTol 0;} UFinal {$U;} }
PISO {nCorrectors 2; nNonOrthogonalCorrectors 0; pRefCell 0; pRefValue 0;}
PIMPLE {nOuterCorrectors 1; nCorrectors 2; nNonOrthogonalCorrectors 0; pRefCell 0; pRefValue 0;}
"""
INLET = "type fixedValue; value uniform (1 0 0);"


def write_case(case, control, mesh, velocity, pressure, viscosity):
    for name in ("0", "constant", "system"):
        (case / name).mkdir(parents=True)

    def write(name, kind, text):
        (case / name).write_text(HEAD.format(kind, name.rpartition("/")[2]) + text)

    write("system/controlDict", "dictionary", control)
    write("system/fvSchemes", "dictionary", SCHEMES)
    write("system/fvSolution", "dictionary", SOLUTION)
    write("system/blockMeshDict", "dictionary", mesh)
    write("system/decomposeParDict", "dictionary", "numberOfSubdomains 2; method simple; coeffs {n (1 2 1);}\n")
    write("constant/transportProperties", "dictionary", f"transportModel Newtonian; nu {viscosity};\n")
    write("constant/turbulenceProperties", "dictionary", "simulationType laminar;\n")
    write("0/U", "volVectorField", f"dimensions [0 1 -1 0 0 0 0];\n{velocity}")
    write("0/p", "volScalarField", f"dimensions [0 2 -2 0 0 0 0];\n{pressure}")
    return case


def control_of(steps, dt, write_every, application):
    return f"""application {application}; startFrom startTime; startTime 0; stopAt endTime; endTime {steps * dt:.12g};
deltaT {dt}; writeControl timeStep; writeInterval {write_every}; purgeWrite 0; writeFormat binary; writePrecision 12;
writeCompression off; timeFormat general; timePrecision 8; runTimeModifiable true;
"""


@pytest.fixture
def channel(tmp_path):
    """Makes a channel of 4 x 1 with an inlet of *ny* faces."""

    def make(name="case", nx=16, ny=8, steps=20, dt=0.005, write_every=5, inlet=INLET, application="icoFoam"):
        mesh = f"""scale 1;
vertices ((0 0 0)(4 0 0)(4 1 0)(0 1 0)(0 0 .1)(4 0 .1)(4 1 .1)(0 1 .1));
blocks (hex (0 1 2 3 4 5 6 7) ({nx} {ny} 1) simpleGrading (1 1 1)); edges ();
boundary (inlet {{type patch; faces ((0 4 7 3));}} outlet {{type patch; faces ((1 2 6 5));}}
walls {{type wall; faces ((0 1 5 4)(3 7 6 2));}} frontAndBack {{type empty; faces ((0 3 2 1)(4 5 6 7));}});
mergePatchPairs ();
"""
        velocity = f"""internalField uniform (1 0 0);
boundaryField {{inlet {{{inlet}}} outlet {{type zeroGradient;}} walls {{type noSlip;}} frontAndBack {{type empty;}}}}
"""
        pressure = """internalField uniform 0;
boundaryField {inlet {type zeroGradient;} outlet {type fixedValue; value uniform 0;} walls {type zeroGradient;}
frontAndBack {type empty;}}
"""
        control = control_of(steps, dt, write_every, application)
        return write_case(tmp_path / name, control, mesh, velocity, pressure, 0.005)

    return make


@pytest.fixture
def box(tmp_path):
    """Makes a doubly periodic box of side 2 pi with n x n cells, at rest."""

    def make(name="box", n=16, steps=20, dt=0.01, write_every=5, application="icoFoam", viscosity=0.05):
        side = 6.283185307179586
        mesh = f"""scale 1; s {side};
vertices ((0 0 0)($s 0 0)($s $s 0)(0 $s 0)(0 0 .1)($s 0 .1)($s $s .1)(0 $s .1));
blocks (hex (0 1 2 3 4 5 6 7) ({n} {n} 1) simpleGrading (1 1 1)); edges ();
boundary (left {{type cyclic; neighbourPatch right; faces ((0 4 7 3));}}
right {{type cyclic; neighbourPatch left; faces ((1 2 6 5));}}
bottom {{type cyclic; neighbourPatch top; faces ((0 1 5 4));}}
top {{type cyclic; neighbourPatch bottom; faces ((3 7 6 2));}}
frontAndBack {{type empty; faces ((0 3 2 1)(4 5 6 7));}});
mergePatchPairs ();
"""
        cyclic = "".join(f"{name} {{type cyclic;}} " for name in ("left", "right", "bottom", "top"))
        sides = f"boundaryField {{{cyclic} frontAndBack {{type empty;}}}}\n"
        control = control_of(steps, dt, write_every, application)
        velocity, pressure = f"internalField uniform (0 0 0);\n{sides}", f"internalField uniform 0;\n{sides}"
        return write_case(tmp_path / name, control, mesh, velocity, pressure, viscosity)

    return make


@pytest.fixture
def open_folder():
    """A folder that an ordinary user may enter, as OpenFOAM's system calls need it."""
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path) / "run"
