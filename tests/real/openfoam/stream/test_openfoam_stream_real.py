"""Fields streamed into OpenFOAM's own solvers by the plugin: exact, both ways, and clear when something dies."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import accumulate, islice, repeat
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import JobError
from penstock.formats.openfoam import read_field, read_mesh, written_whole
from penstock.solvers.openfoam.case import environment
from penstock.solvers.openfoam.live import Forcing, Inlet, built_plugin
from penstock.solvers.openfoam.process import finished_time

FACES, STEPS = 8, 20
INLET = "type fixedValue; value uniform (1 0 0);"


def planes_from(index):
    """The same plane for the same number, always."""
    while True:
        random = np.random.default_rng(index)
        yield np.stack([1 + 0.2 * random.random(FACES), 0.1 * random.random(FACES), np.zeros(FACES)], axis=-1)
        index += 1


def plane(index):
    return next(planes_from(index))


def field(folder, time="0.1", name="U"):
    if (folder / "processor0").exists():
        done = subprocess.run(
            ["reconstructPar", "-time", time], cwd=folder, env=environment(folder), capture_output=True
        )
        assert done.returncode == 0, done.stdout
    return read_field(folder / time / name)


def same(folder, other):
    return all(
        np.array_equal(field(folder, name=name).internal, field(other, name=name).internal)
        for name in ("U", "p", "phi")
    )


@pytest.fixture
def undisturbed(channel, tmp_path):
    """A run that nothing happens to, by its number of ranks."""

    def run(ranks=1, **settings):
        folder = tmp_path / f"undisturbed{ranks}"
        assert len(list(Inlet(str(channel("theirs")), ranks=ranks, **settings).feed(planes_from, folder))) > 1
        return folder

    return run


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_patch_has_exactly_the_plane_of_each_step(channel, tmp_path, ranks):
    inlet = Inlet(str(channel(write_every=1)), ranks=ranks)
    states = list(inlet.feed(planes_from, tmp_path / "run"))
    assert [state.step for state in states] == list(range(STEPS + 1))
    assert [state.last for state in states] == [False] * STEPS + [True]
    for step in (1, 7, 20):
        assert np.array_equal(field(tmp_path / "run", f"{step * 0.005:g}").patch("inlet", FACES), plane(step - 1))


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_comes_back_is_what_the_solver_wrote_next_to_the_patch(channel, tmp_path, ranks):
    inlet = Inlet(str(channel(write_every=1)), ranks=ranks)
    states = list(inlet.feed(planes_from, tmp_path / "run"))
    # Cells of one blockMesh block: x fastest, so those at the inlet are every sixteenth.
    assert np.array_equal(states[7].values, field(tmp_path / "run", "0.035").internal[::16])


def test_two_ranks_cut_the_patch_and_planes_keep_the_order_of_the_whole_mesh(channel, tmp_path):
    inlet = Inlet(str(channel()), ranks=2)
    centres = inlet.centres(tmp_path / "run")
    assert np.allclose(centres[:, 1], (np.arange(FACES) + 0.5) / FACES)
    states = list(inlet.feed(planes_from, tmp_path / "run"))
    alone = list(Inlet(inlet.case).feed(planes_from, tmp_path / "alone"))
    assert max(abs(a.values - b.values).max() for a, b in zip(states, alone, strict=True)) < 1e-9


def test_ranks_without_a_face_of_the_patch_take_part_too(channel, tmp_path):
    states = list(Inlet(str(channel()), ranks=3).feed(planes_from, tmp_path / "run"))
    assert len(states) == STEPS + 1
    assert np.array_equal(field(tmp_path / "run").patch("inlet", FACES), plane(STEPS - 1))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_scalar_is_set_as_well(channel, tmp_path, ranks):
    pressures = [np.linspace(0, 0.1, FACES) * step for step in range(STEPS)]
    outlet = Inlet(str(channel()), patch="outlet", field="p", ranks=ranks)
    states = list(outlet.feed(lambda first: iter(pressures[first:]), tmp_path / "run"))
    assert states[0].values.shape == (FACES,)
    assert np.array_equal(field(tmp_path / "run", name="p").patch("outlet", FACES), pressures[-1])


def test_a_plane_holds_for_the_interval(channel, tmp_path):
    states = list(Inlet(str(channel(write_every=1)), interval=5).feed(planes_from, tmp_path / "run"))
    assert [state.step for state in states] == [0, 5, 10, 15, 20]
    held = [field(tmp_path / "run", f"{step * 0.005:g}").patch("inlet", FACES) for step in (6, 8, 10)]
    assert all(np.array_equal(values, plane(1)) for values in held)


@pytest.mark.parametrize("ranks", [1, 2])
def test_streamed_planes_give_what_openfoam_makes_of_staged_files_bit_for_bit(channel, tmp_path, ranks):
    """Against OpenFOAM's own timeVaryingMappedFixedValue, and files that were all there before the start."""
    case = channel()
    called(case, "blockMesh")
    staged = shutil.copytree(case, tmp_path / "staged")
    velocity = (staged / "0/U").read_text()
    mapped = (
        "type timeVaryingMappedFixedValue; offset (0 0 0); setAverage off; mapMethod nearest; value uniform (1 0 0);"
    )
    assert INLET in velocity
    (staged / "0/U").write_text(velocity.replace(INLET, mapped))
    data = staged / "constant/boundaryData/inlet"
    for number, moment in enumerate(accumulate([0.0] + [0.005] * STEPS)):
        (data / repr(moment)).mkdir(parents=True)
        (data / repr(moment) / "U").write_text(listed(plane(max(number - 1, 0))))
    mesh = read_mesh(case / "constant/polyMesh")
    (data / "points").write_text(listed(mesh.face_centres[mesh.patch("inlet").faces]))
    if ranks > 1:
        called(staged, "decomposePar")
    called(staged, *(["mpirun.openmpi", "-n", str(ranks), "icoFoam", "-parallel"] if ranks > 1 else ["icoFoam"]))
    list(Inlet(str(case), ranks=ranks).feed(planes_from, tmp_path / "run"))
    assert [len(list(folder.glob("processor*"))) for folder in (staged, tmp_path / "run")] == [
        ranks if ranks > 1 else 0
    ] * 2
    assert same(tmp_path / "run", staged)


def called(case, *command):
    subprocess.run(command, cwd=case, env=environment(case), check=True, capture_output=True)


def listed(rows):
    return f"{len(rows)}\n(\n" + "\n".join(f"({x!r} {y!r} {z!r})" for x, y, z in rows.tolist()) + "\n)\n"


@pytest.mark.parametrize(("transport", "ranks"), [("fifo", 1), ("gate", 1), ("gate", 2)])
def test_without_the_plugin_the_same_planes_come_to_the_solver(channel, tmp_path, open_folder, transport, ranks):
    inlet = Inlet(str(channel(write_every=1)), transport=transport, ranks=ranks, interval=2)
    states = list(inlet.feed(planes_from, open_folder))
    assert [state.step for state in states] == [*range(0, STEPS + 1, 2)]
    assert states[0].values.shape == (0, 3)
    list(Inlet(inlet.case, ranks=ranks, interval=2).feed(planes_from, tmp_path / "plugin"))
    for moment in ("0.005", "0.01", "0.015", "0.1"):
        ours, theirs = field(open_folder, moment), field(tmp_path / "plugin", moment)
        assert abs(ours.patch("inlet", FACES) - theirs.patch("inlet", FACES)).max() < 1e-11
        assert abs(ours.internal - theirs.internal).max() < 1e-11


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("transport", ["fifo", "gate"])
def test_without_the_plugin_a_run_may_be_short(channel, open_folder, transport, steps):
    states = list(Inlet(str(channel(steps=steps)), transport=transport).feed(planes_from, open_folder))
    assert [state.step for state in states] == [*range(steps + 1)]


@pytest.mark.parametrize("transport", ["fifo", "gate"])
def test_without_the_plugin_hardly_a_plane_lies_on_the_disk(channel, open_folder, transport):
    inlet, most = Inlet(str(channel()), transport=transport), 0
    for _ in inlet.feed(planes_from, open_folder):
        planes = [path for path in (open_folder / "constant/boundaryData/inlet").glob("*/U") if path.is_file()]
        most = max(most, len(planes))
    assert most <= {"fifo": 0, "gate": 4}[transport]


def test_the_plugin_puts_no_plane_on_the_disk(channel, tmp_path):
    def files():
        return {path for path in (tmp_path / "run").rglob("*") if path.is_file()}

    feed = Inlet(str(channel(write_every=1000))).feed(planes_from, tmp_path / "run")
    next(feed)
    before = files()
    assert all(files() <= before or state.last for state in feed)


# --- dying and going on ----------------------------------------------------------------------------------


def solver_pids(folder):
    """Of the solvers that work in *folder*."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and b"Foam" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def remaining(folder, seconds=60):
    """The solvers that are there still after a while; ranks whose launcher has ended may need a moment."""
    end = time.monotonic() + seconds
    while (pids := solver_pids(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return pids


def killed_at(step, states, folder):
    signalled_at(step, states, folder, signal.SIGKILL)


def signalled_at(step, states, folder, number):
    """Send all ranks a signal."""
    for state in states:
        if state.step == step:
            for pid in solver_pids(folder):
                os.kill(pid, number)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("interval", [1, 3])
def test_a_killed_solver_is_named_and_the_run_goes_on_bit_for_bit(channel, tmp_path, undisturbed, ranks, interval):
    inlet, folder = Inlet(str(channel()), ranks=ranks, interval=interval, ahead=0), tmp_path / "run"
    with pytest.raises(JobError, match=r"the solver died after step 12, time 0.06.*its log is .*run/log") as raised:
        killed_at(12, inlet.feed(planes_from, folder), folder)
    assert "was ended by signal 9" in str(raised.value) or ranks > 1
    states = list(inlet.feed(planes_from, folder))
    assert states[0].step == 10
    assert same(folder, undisturbed(ranks, interval=interval))


def test_times_that_were_written_in_part_are_written_anew(channel, tmp_path, undisturbed):
    inlet, folder = Inlet(str(channel()), ahead=0), tmp_path / "run"
    for state in inlet.feed(planes_from, folder):
        if state.step == 12:
            break
    (folder / "0.075").mkdir(exist_ok=True)
    (folder / "0.075" / "U").write_text("half of")
    assert next(iter(inlet.feed(planes_from, folder))).step == 10
    list(inlet.feed(planes_from, folder))
    assert same(folder, undisturbed())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("left", [lambda time: cut(time / "U"), lambda time: (time / "p").unlink(), shutil.rmtree])
def test_a_time_that_one_rank_has_in_part_is_written_anew(channel, tmp_path, undisturbed, left):
    """All ranks were killed when the first had said that its step is done, and the second was still writing."""
    inlet, folder = Inlet(str(channel()), ranks=2, ahead=0), tmp_path / "run"
    with pytest.raises(JobError, match="the solver died after step 12"):
        killed_at(12, inlet.feed(planes_from, folder), folder)
    assert finished_time(folder / "log") >= 0.05
    left(folder / "processor1" / "0.05")
    states = list(inlet.feed(planes_from, folder))
    assert (states[0].step, states[-1].step) == (5, STEPS)
    assert same(folder, undisturbed(2))


def test_an_end_that_one_rank_has_in_part_is_no_end(channel, tmp_path, undisturbed):
    folder = tmp_path / "run"
    inlet = Inlet(str(channel()), uri=str(folder), ranks=2)
    list(inlet.feed(planes_from, folder))
    assert inlet.done()
    cut(folder / "processor1" / "0.1" / "U")
    assert not inlet.done()
    assert next(iter(inlet.feed(planes_from, folder))).step == 15
    assert not inlet.done(), "the log's older lines do not count"
    list(inlet.feed(planes_from, folder))
    assert inlet.done()
    assert same(folder, undisturbed(2))


@pytest.mark.parametrize("format_", ["binary", "ascii", "compressed"])
def test_all_files_that_a_solver_writes_are_seen_to_be_whole(channel, tmp_path, format_):
    case = channel(steps=10)
    path = case / "system" / "controlDict"
    text = path.read_text()
    text = text.replace("writeFormat binary", "writeFormat ascii") if format_ == "ascii" else text
    path.write_text(
        text.replace("writeCompression off", f"writeCompression {'on' if format_ == 'compressed' else 'off'}")
    )
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        list(Inlet(str(case), ranks=ranks).feed(planes_from, folder))
        assert all(written_whole(folder, time) for time in ("0.025", "0.05"))
        for file in list((folder / "processor1" if ranks > 1 else folder).joinpath("0.05").rglob("*")):
            if file.is_file():
                whole = file.read_bytes()
                file.write_bytes(whole[: len(whole) // 2])
                assert not written_whole(folder, "0.05"), file
                file.write_bytes(whole)
        assert written_whole(folder, "0.05")


def test_a_finished_run_is_not_run_again(channel, tmp_path):
    inlet, folder = Inlet(str(channel())), tmp_path / "run"
    list(inlet.feed(planes_from, folder))
    assert list(inlet.feed(planes_from, folder)) == []


def test_a_killed_driver_ends_its_solver_and_another_goes_on(channel, tmp_path, undisturbed):
    case, folder = channel(), tmp_path / "run"
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_openfoam_stream_real import planes_from
        from penstock.solvers.openfoam.live import Inlet
        for state in Inlet({str(case)!r}, ahead=0).feed(planes_from, Path({str(folder)!r})):
            print(state.step, flush=True)
            if state.step == 13:
                time.sleep(60)
    """)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert any(line.strip() == "13" for line in driver.stdout)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    states = list(Inlet(str(case)).feed(planes_from, folder))
    assert "the generator is gone: it ended or was killed" in (folder / "log").read_text()
    assert states[0].step == 10
    assert same(folder, undisturbed())


def test_without_the_plugin_a_killed_run_goes_on_too(channel, tmp_path, undisturbed):
    inlet, folder = Inlet(str(channel()), transport="fifo"), tmp_path / "run"
    for state in inlet.feed(planes_from, folder):
        if state.step == 12:
            break
    states = list(inlet.feed(planes_from, folder))
    assert states[0].step in {5, 10}
    assert abs(field(folder).internal - field(undisturbed()).internal).max() < 1e-11


@pytest.mark.parametrize(("host", "ranks"), [("", 1), ("127.0.0.1", 1), ("127.0.0.1", 2)])
def test_a_solver_that_was_stopped_is_given_up_and_the_run_goes_on(channel, tmp_path, undisturbed, host, ranks):
    """Its connection stays open and the kernel answers for it, so nothing else would tell."""
    inlet, folder = Inlet(str(channel()), host=host, ranks=ranks, ahead=0, silent_seconds=15.0), tmp_path / "run"
    with pytest.raises(JobError, match=r"the solver fell silent after step 12, time 0.06: no sign of life for 15 s;"):
        signalled_at(12, inlet.feed(planes_from, folder), folder, signal.SIGSTOP)
    assert not remaining(folder)
    assert next(iter(inlet.feed(planes_from, folder))).step == 10
    list(inlet.feed(planes_from, folder))
    assert same(folder, undisturbed(ranks))


def test_a_slow_solver_is_waited_for(channel, tmp_path, undisturbed):
    """A step takes 14 seconds, since the second rank is held; silence is borne for less."""
    inlet, folder = Inlet(str(channel()), ranks=2, ahead=0, silent_seconds=10.0), tmp_path / "run"
    moments = {}
    for state in inlet.feed(planes_from, folder):
        moments[state.step] = time.monotonic()
        if state.step == 12:
            threading.Timer(14.0, os.kill, (held_rank(folder), signal.SIGCONT)).start()
    assert moments[13] - moments[12] > 13.5
    assert same(folder, undisturbed(2))


def held_rank(folder):
    """Stop the second rank; its pid."""
    [second] = [pid for pid in solver_pids(folder) if rank_of(pid) == "1"]
    os.kill(second, signal.SIGSTOP)
    return second


def rank_of(pid):
    return re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", Path(f"/proc/{pid}/environ").read_bytes())[1].decode()


def test_a_second_run_in_the_same_folder_is_refused(channel, tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.solvers.openfoam.process._LOCK_SECONDS", 0.1)
    inlet = Inlet(str(channel()))
    running = inlet.feed(planes_from, tmp_path / "run")
    next(running)
    with pytest.raises(JobError, match=r"another run goes on in .*run; wait for its end, or take another folder"):
        next(inlet.feed(planes_from, tmp_path / "run"))
    running.close()


# --- what is refused -------------------------------------------------------------------------------------


def refused(inlet, folder, planes=planes_from):
    """The error's text, and the solver's log."""
    with pytest.raises(JobError) as raised:
        list(inlet.feed(planes, folder))
    assert not remaining(folder)
    return str(raised.value), (folder / "log").read_text()


def spoilt(index, spoil):
    for number, values in enumerate(planes_from(index), index):
        yield spoil(values) if number == 3 else values


def test_a_plane_of_the_wrong_size(channel, tmp_path):
    told, log = refused(Inlet(str(channel())), tmp_path / "run", lambda i: spoilt(i, lambda values: values[:5]))
    assert told == "the plane for step 3 has shape [5, 3], and patch inlet needs [8, 3] for U"
    assert f"the generator says: {told}" in log


def test_a_plane_with_nan(channel, tmp_path):
    def spoil(values):
        values[4, 1] = np.nan
        return values

    told, log = refused(Inlet(str(channel()), ranks=2), tmp_path / "run", lambda i: spoilt(i, spoil))
    assert told == (
        "the plane for step 3 is NaN or infinite in 1 of 24 numbers, the first at [4, 1]; the solver was not given it"
    )
    assert told in log


def test_a_generator_that_raises(channel, tmp_path):
    def planes(index):
        yield from islice(planes_from(index), 4)
        raise ValueError("out of memory")

    told, log = refused(Inlet(str(channel())), tmp_path / "run", planes)
    assert told == "the generator died at plane 4: ValueError: out of memory"
    assert told in log


def test_planes_that_end_too_soon(channel, tmp_path):
    told, log = refused(Inlet(str(channel())), tmp_path / "run", lambda i: islice(planes_from(i), 4))
    assert "the planes ended before plane 4, and the solver goes on" in told
    assert "the planes ended before plane 4" in log


def test_a_solver_that_diverges(channel, tmp_path):
    wild = channel(dt=0.5, steps=400, write_every=400)
    told, _ = refused(Inlet(str(wild)), tmp_path / "run", lambda _: repeat(plane(0) * 50))
    assert re.search(r"has diverged; use a smaller time step|floating point exception", told), told


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch": "inflow"}, "there is no patch inflow; the mesh has inlet outlet walls frontAndBack"),
        ({"patch": "outlet"}, "U on patch outlet is of type zeroGradient; only a fixedValue can be set"),
        ({"field": "T"}, "there is no vector or scalar field T in this solver"),
        ({"application": "noFoam"}, "there is no program noFoam"),
    ],
)
def test_what_the_case_does_not_have(channel, tmp_path, settings, said):
    told, _ = refused(Inlet(str(channel()), **settings), tmp_path / "run")
    assert said in " ".join(told.split())


def test_a_solver_with_the_wrong_token(channel, tmp_path, monkeypatch):
    def wrong(folder, token):
        return real(folder, "guessed")

    import penstock.solvers.openfoam.live as live

    real = live._token_file
    monkeypatch.setattr(live, "_token_file", wrong)
    told, log = refused(Inlet(str(channel()), host="127.0.0.1"), tmp_path / "run")
    assert "the solver's token is not the generator's" in told
    assert "the generator says: the solver's token is not the generator's" in log


def test_a_plugin_of_another_version(channel, tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.solvers.openfoam.exchange.VERSION", 7)
    told, log = refused(Inlet(str(channel())), tmp_path / "run")
    assert (
        "the solver's plugin speaks version 2 of the protocol, and Penstock version 7; build plugins/openfoam" in told
    )
    assert "speaks version 2 of the protocol" in log


# --- waiting ---------------------------------------------------------------------------------------------


def test_the_solver_waits_for_a_slow_generator(channel, tmp_path):
    def slow(index):
        for values in planes_from(index):
            time.sleep(0.2)
            yield values

    states = list(Inlet(str(channel())).feed(slow, tmp_path / "run"))
    assert states[-1].last
    waited = re.search(r"penstock: (\d+) exchanges, waited ([\d.e+-]+) s", (tmp_path / "run" / "log").read_text())
    assert int(waited[1]) == STEPS + 1
    assert float(waited[2]) > 0.5 * STEPS * 0.2


def test_the_generator_waits_for_a_slow_solver(channel, tmp_path):
    made = 0

    def counted(index):
        nonlocal made
        for values in planes_from(index):
            made += 1
            yield values

    for state in Inlet(str(channel()), ahead=3).feed(counted, tmp_path / "run"):
        # Those that were sent, three that wait, and the one in hand.
        time.sleep(0.02)
        assert made <= state.step + 1 + 3 + 1


def test_a_plane_may_depend_on_the_state_before_it(channel, tmp_path):
    seen = []

    def control(_):
        while True:
            yield np.stack([2 - seen[-1].values[:, 0], *np.zeros((2, FACES))], axis=-1)

    for state in Inlet(str(channel(write_every=1)), ahead=0).feed(control, tmp_path / "run"):
        seen.append(state)  # noqa: PERF402  (the planes look at it meanwhile)
    expected = 2 - seen[9].values[:, 0]
    assert np.array_equal(field(tmp_path / "run", "0.05").patch("inlet", FACES)[:, 0], expected)


def test_over_tcp_the_result_is_the_same(channel, tmp_path, undisturbed):
    inlet = Inlet(str(channel()), host="127.0.0.1", ranks=2, ahead=0)
    for state in inlet.feed(planes_from, tmp_path / "run"):
        [token] = (tmp_path / "run").glob("token.*")
        assert token.stat().st_mode & 0o777 == 0o600
        if state.step == 3:
            assert probed((tmp_path / "run/system/controlDict").read_text())
    assert not list((tmp_path / "run").glob("token.*"))
    assert "tcp:127.0.0.1:" in (tmp_path / "run/system/controlDict").read_text()
    assert same(tmp_path / "run", undisturbed(2))


def probed(controls):
    """Whether at both ends of the idle connection the kernel will look within 10 s if the other node is there."""
    port = int(re.search(r'"tcp:127.0.0.1:(\d+)"', controls)[1])
    soon, deadline = [], time.monotonic() + 30
    while soon != [True, True] and time.monotonic() < deadline:
        time.sleep(0.05)  # until what was sent is acknowledged, another timer runs
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ends = [row[5].split(":") for row in rows if row[3] == "01" and f":{port:04X}" in row[1] + row[2]]
        soon = [kind == "02" and int(when, 16) <= 10 * os.sysconf("SC_CLK_TCK") for kind, when in ends]
    return soon == [True, True]


# --- forces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("application", "force", "ranks"),
    [("icoFoam", "kick", 1), ("icoFoam", "kick", 2), ("pisoFoam", "source", 1), ("pimpleFoam", "source", 2)],
)
def test_a_kolmogorov_force_drives_the_flow_that_is_known(box, tmp_path, application, force, ranks):
    """From rest u = sin(2y) (1 - exp(-4 nu t)) / (4 nu): exact, since convection and pressure vanish."""
    forcing = Forcing(str(box(n=64, application=application)), force=force, ranks=ranks)
    y = forcing.centres(tmp_path / "run")[:, 1]
    plane = np.stack([np.sin(2 * y), 0 * y, 0 * y], axis=-1)
    states = list(forcing.feed(lambda _: repeat(plane), tmp_path / "run"))
    assert states[-1].values.shape == (64 * 64, 3)
    exact = np.sin(2 * y) * (1 - np.exp(-4 * 0.05 * 0.2)) / (4 * 0.05)
    assert abs(states[-1].values[:, 0] - exact).max() < 0.01 * abs(exact).max()
    assert abs(states[-1].values[:, 1:]).max() < 1e-9


def test_kick_and_source_are_the_same_with_eulers_method(box, tmp_path):
    def planes(index):
        while True:
            yield np.random.default_rng(index).standard_normal((256, 3)) * [1, 1, 0]
            index += 1

    ends = []
    for force in ("kick", "source"):
        case = box(force, application="pisoFoam")
        ends.append(list(Forcing(str(case), force=force).feed(planes, tmp_path / f"run-{force}"))[-1].values)
    assert abs(ends[0]).max() > 0.01
    assert abs(ends[0] - ends[1]).max() < 0.02 * abs(ends[0]).max()


def test_a_forced_run_goes_on_bit_for_bit(box, tmp_path):
    def planes(index):
        while True:
            yield np.random.default_rng(index).standard_normal((256, 3)) * [1, 1, 0]
            index += 1

    forcing = Forcing(str(box()), force="kick", interval=3, ahead=0)
    for state in forcing.feed(planes, tmp_path / "run"):
        if state.step == 12:
            break
    assert [state.step for state in forcing.feed(planes, tmp_path / "run")] == [10, 12, 15, 18, 20]
    list(forcing.feed(planes, tmp_path / "other"))
    assert same(tmp_path / "run", tmp_path / "other")


def test_a_solver_without_fvoptions_says_that_it_takes_no_source(box, tmp_path):
    forcing = Forcing(str(box()), force="source")
    with pytest.raises(JobError, match="no equation of this solver has taken the force"):
        list(forcing.feed(lambda _: repeat(np.zeros((256, 3))), tmp_path / "run"))


def test_the_plugin_is_built_once():
    path = Path(built_plugin())
    before = path.stat().st_mtime_ns
    assert built_plugin() == str(path)
    assert path.stat().st_mtime_ns == before
