"""Images are built as `scripts/images` builds them for users, and stages run in them: real roots of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engines import ready

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.run import Quiet
from penstock.errors import RunError
from penstock.runners import container
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.fasta import Fasta
from penstock.stages.clean import Clean
from penstock.stages.kmer import Kmer

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache/images"
EXTRAS = ("core", "genomes")


@pytest.fixture(scope="module")
def images():
    """Their names, by the extra that they hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_ENGINE", "buildah")
        subprocess.run(["scripts/images", *EXTRAS], cwd=ROOT, check=True)
        yield {extra: f"penstock-{extra}:{version()}" for extra in EXTRAS}
    assert "penstock-" not in said("buildah", "containers", "--format={{.ContainerName}}"), "all containers are removed"


@pytest.fixture
def inside(images):
    """Runs a shell line in a container of the core image."""
    name = said("buildah", "from", "--pull=false", images["core"]).strip()
    yield lambda line: said("buildah", "run", "--isolation=chroot", name, "--", "sh", "-c", line)
    said("buildah", "rm", name)


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def said(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def reads(folder, count=400):
    """Reads of a linear congruential generator's letters, in a FASTA file; a few are no DNA."""
    state, lines = 7, []
    for number in range(count):
        letters = []
        for _ in range(120):
            state = (state * 1103515245 + 12345) % (1 << 31)
            letters.append("ACGT"[state >> 16 & 3])
        lines.append(f">read{number}\n{''.join(letters)}{'!' * (number % 100 == 50)}\n")
    (folder / "reads.fasta").write_text("".join(lines))
    return Fasta(str(folder / "reads.fasta"), unit_bytes=4000)


def line(source, out, image=""):
    place = Place("container", image=image) if image else Place()
    return Pipeline("line", source, Parquet(str(out)), (Step(Clean(alphabet="dna"), place), Step(Kmer(k=9), place)))


def paths(report):
    return [part["path"] for part in report.manifest.parts().to_pylist()]


class Held(Quiet):
    """Has the run wait after its fifth and its tenth unit until one container more was killed."""

    def __init__(self, struck):
        self.struck, self.done = struck, 0

    def outcome(self, outcome):
        self.done += 1
        end = time.monotonic() + 240
        while len(self.struck) < min(self.done // 5, 2) and time.monotonic() < end:
            time.sleep(0.02)


@contextmanager
def killing(parts):
    """Inside, containers that are at work are killed: again when some *parts* more are done. Gives who was struck.

    A unit is given up when three die over it.
    """
    struck, over = [], threading.Event()

    def strike():
        done = 0
        while len(struck) < 4 and not over.wait(0.05):
            if len(list(parts.rglob("*.parquet"))) < done + 2:
                continue
            done = len(list(parts.rglob("*.parquet")))
            for process in psutil.process_iter(["cmdline"]):
                words = process.info["cmdline"] or [""]
                if "stage" in words and words[0].startswith("/opt/penstock") and process.pid not in struck:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                        struck.append(process.pid)
                    break

    killer = threading.Thread(target=strike, daemon=True)
    killer.start()
    try:
        yield struck
    finally:
        over.set()
        killer.join()


def gives_the_parts_of_functions(wanted, found):
    assert (found.rows, found.bad_rows, found.units) == (wanted.rows, 4, wanted.units)
    assert paths(found) == paths(wanted), "parts are named by their bytes"


def test_a_pipeline_in_containers_gives_the_parts_of_functions_though_they_are_killed(images, tmp_path):
    source = reads(tmp_path)
    wanted = Inline().run(line(source, tmp_path / "functions"))
    with killing(tmp_path / "containers") as struck:
        found = Inline().run(line(source, tmp_path / "containers", images["genomes"]), Held(struck))
    assert len(struck) >= 2
    gives_the_parts_of_functions(wanted, found)


def test_a_stage_whose_packages_are_not_in_the_image_says_so(images, tmp_path):
    with pytest.raises(
        RunError, match=r"step kmer cannot be opened in a container of .*(.|\n)*stage kmer: kmer needs numba"
    ):
        Inline().run(line(reads(tmp_path, 20), tmp_path / "out", images["core"]))


def test_nobody_is_root_and_nothing_is_there_to_install_with(inside):
    assert inside("id -u; id -g").split() == ["65532", "65532"]
    assert inside("ls -A /wheels /root 2>/dev/null | wc -l; command -v pip pip3 gcc || echo none").split() == [
        "0",
        "none",
    ]
    with pytest.raises(subprocess.CalledProcessError):
        inside("touch /opt/penstock/mine")
    assert "kmer" in inside("penstock list")


def test_the_entry_point_is_penstock_and_no_layer_keeps_the_wheels(images):
    told = json.loads(said("buildah", "inspect", "--type=image", images["core"]))["OCIv1"]
    assert told["config"]["Entrypoint"] == ["/opt/penstock/bin/penstock"]
    assert told["config"]["User"] == "65532:65532"
    assert len(told["rootfs"]["diff_ids"]) == 2, "the base, and what was installed"


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_bill_of_materials_lists_what_was_locked_and_what_the_base_has(images, extra):
    bill = json.loads((CACHE / extra / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", f"penstock-{extra}")
    listed = {each["purl"].split("?")[0] for each in bill["components"] if "purl" in each}
    locked = re.findall(
        r"^(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}$", (CACHE / extra / "lock.txt").read_text(), re.MULTILINE
    )
    assert len(locked) == len(list((CACHE / extra / "wheels").glob("*.whl"))) > 10
    assert {f"pkg:pypi/{name}@{version}" for name, version in locked} <= {
        each.replace("_", "-").lower() for each in listed
    }
    assert any(each.startswith("pkg:deb/debian/libc6@") for each in listed)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements/constraints.txt").read_text(), re.MULTILINE))
    pins = {re.sub("[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert {name: version for name, version in locked if name != "penstock"}.items() <= pins.items()


def test_wheels_that_were_changed_are_not_installed(images, tmp_path):
    """The build holds every wheel against the lock file."""
    core = CACHE / "core"
    said("cp", "-r", str(core), str(tmp_path / "core"))
    lock = tmp_path / "core/lock.txt"
    lock.write_text(re.sub(r"(rich==\S+ --hash=sha256:)[0-9a-f]{8}", r"\g<1>00000000", lock.read_text()))
    began = time.monotonic()
    words = [
        "--build-arg=BASE=penstock-base:" + codename(),
        "--build-arg=EXTRA=core",
        "--file=deploy/images/Containerfile",
    ]
    done = subprocess.run(
        ["buildah", "build", "--isolation=chroot", "--tag=penstock-changed", *words, str(tmp_path / "core")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, time.monotonic() - began
    assert "DO NOT MATCH THE HASHES" in done.stderr + done.stdout


def codename():
    return re.search(r"^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE)[1]


# --- docker and podman -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(request):
    """The engine's name, and the core image that it has built."""
    with ready(request.param) as variables, pytest.MonkeyPatch.context() as patch:
        for key, value in {**variables, "PENSTOCK_ENGINE": request.param}.items():
            patch.setenv(key, value)
        subprocess.run(["scripts/images", "core"], cwd=ROOT, check=True)
        yield request.param, f"penstock-core:{version()}"


def test_docker_and_podman_give_the_parts_of_functions_though_they_are_killed(engine, tmp_path):
    name, image = engine
    source = reads(tmp_path)
    place = Place("container", image=image, cpus=1, memory_bytes=600 << 20)
    functions, containers = (
        Pipeline("line", source, Parquet(str(tmp_path / where)), (Step(Clean(alphabet="dna"), at),))
        for where, at in (("functions", Place()), ("containers", place))
    )
    wanted = Inline().run(functions)
    with killing(tmp_path / "containers") as struck:
        found = Inline().run(containers, Held(struck))
    assert len(struck) >= 2
    gives_the_parts_of_functions(wanted, found)
    assert ours(name) == []


def test_what_docker_and_podman_run_is_shut_in(engine):
    name, image = engine
    step = Step(Clean(alphabet="dna"), Place("container", image=image, cpus=0.5, memory_bytes=600 << 20))
    with container.opened(step):
        [running] = ours(name)
        [told] = json.loads(said(name, "inspect", running))
    host = told["HostConfig"]
    assert (host["ReadonlyRootfs"], host["NetworkMode"], host["Memory"]) == (True, "none", 600 << 20)
    assert "no-new-privileges" in host["SecurityOpt"]
    assert told["Config"]["User"] == "65532:65532"
    assert host["CapDrop"] == ["ALL"] or len(host["CapDrop"]) > 10, "podman names each"


def ours(name, seconds=60):
    """Containers of Penstock's that an engine has; those that have ended go by themselves."""
    end = time.monotonic() + seconds
    while True:
        listed = said(name, "ps", "--all", "--format={{.Names}} {{.Status}}").splitlines()
        found = [line.split() for line in listed if line.startswith("penstock-")]
        if all(status == "Up" for _, status, *_ in found) or time.monotonic() > end:
            return [each for each, *_ in found]
        time.sleep(0.2)
