"""Where a solver without the plugin asks and waits; OpenFOAM itself is in tests/real/openfoam."""

import subprocess
from dataclasses import dataclass

from penstock.solvers.openfoam.staged import _GATE, _Gate

STEPS = 300


@dataclass
class Shell:
    """Asks at each step as OpenFOAM's ``systemCall`` does, with no work between the steps."""

    process: subprocess.Popen

    def running(self):
        return self.process.poll() is None


def test_each_question_waits_for_its_own_answer(tmp_path):
    question = _GATE.split('executeCalls ("')[1].split('")')[0]
    script = f"for i in $(seq {STEPS}); do sh -c '{question}; echo $x >> answers'; done"
    answers = tmp_path / "answers"
    answers.touch()
    with _Gate(tmp_path) as gate, subprocess.Popen(["sh", "-c", script], cwd=tmp_path) as process:
        step = 0
        while gate.asked(Shell(process)):
            assert answers.read_text() == "go\n" * step
            gate.open()
            step += 1
    assert step == STEPS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers"]
