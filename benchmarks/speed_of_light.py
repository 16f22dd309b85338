"""The pipeline's rate over that of the bare model: same weights, same batches, same number of processes.

Each way is a process of its own, timed from start to end (imports, loading, work, commit), and also over
the work alone. Beside them the plain Ray Data recipe: read_parquet -> map_batches(actor) -> write_parquet.
`make bench NAME=speed_of_light`
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import measuring
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
CHAINS = HERE.parent / "examples" / "antibodies" / "chains.fasta"
COUNT, A_UNIT, TURNS = 1000, 50, 2


def make_data(folder: Path) -> None:
    """Antibody chains with a few random substitutions each, as FASTA and as Parquet."""
    rng, chains = random.Random(0), [r.split("\n", 1)[1].replace("\n", "") for r in CHAINS.read_text().split(">")[1:]]
    texts = []
    for _ in range(COUNT):
        letters = list(rng.choice(chains))
        for at in rng.sample(range(len(letters)), 5):
            letters[at] = rng.choice("ACDEFGHIKLMNPQRSTVWY")
        texts.append("".join(letters))
    (folder / "chains.fasta").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(texts)))
    (folder / "in").mkdir()
    for at in range(0, COUNT, A_UNIT):
        pq.write_table(pa.table({"sequence": texts[at : at + A_UNIT]}), folder / "in" / f"{at:05d}.parquet")


def line(folder: Path, threads: int, replicas: int):
    """The pipeline, with units of about A_UNIT sequences."""
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.sinks.parquet import Parquet
    from penstock.sources.fasta import Fasta
    from penstock.stages.clean import Clean
    from penstock.stages.encode import Encode
    from penstock.stages.tokens import Tokens

    fasta = folder / "chains.fasta"
    source = Fasta(str(fasta), unit_bytes=fasta.stat().st_size * A_UNIT // COUNT + 1)
    encode = Encode(model="antiberty", special="exclude", threads=threads)
    pool = Place("actor", replicas=(replicas, replicas))
    return Pipeline(
        "light",
        source,
        Parquet(str(folder / "out")),
        (Step(Clean()), Step(Tokens(tokenizer="antiberty")), Step(encode, pool)),
    )


def bare(folder: Path, threads: int, share: int, shares: int) -> None:
    """The model alone on every *shares*-th unit, tokens ready in memory."""
    pipeline = line(folder, threads, 1)
    batches = []
    for unit in list(pipeline.source.units())[share::shares]:
        batch = pipeline.source.read(unit)
        for step in pipeline.steps[:2]:
            with step.stage.open() as transform:
                batch = transform(batch)
        batches.append(batch)
    with pipeline.steps[2].stage.open() as encode:
        encode(batches[0].slice(0, 2))
        started = time.time()
        rows = sum(encode(batch).num_rows for batch in batches)
        print(json.dumps({"rows": rows, "started": started, "ended": time.time()}))


def penstock(folder: Path, runner: str, threads: int, replicas: int) -> None:
    """The whole pipeline; work counts from the first unit's beginning to the end of the commit."""
    from penstock.runners.inline import Inline
    from penstock.runners.ray import Ray

    pipeline = line(folder, threads, replicas)
    report = (Ray(cpus=replicas) if runner == "ray" else Inline()).run(pipeline)
    [story] = (folder / "out" / "runs").glob("*.parquet")
    first = pq.read_table(story).to_pandas().groupby("unit").agg(end=("finished", "max"), took=("seconds", "sum"))
    # The first unit of each worker loads the model; it is not work but start-up.
    started = float((first["end"] - first["took"]).min())
    print(json.dumps({"rows": report.rows, "started": started, "ended": time.time()}))


def recipe(folder: Path) -> None:
    """What the documentation of Ray Data tells to do."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class Model:
        def __init__(self) -> None:
            from penstock.stages.encode import Encode
            from penstock.stages.tokens import Tokens

            stages = Tokens(tokenizer="antiberty"), Encode(model="antiberty", special="exclude", threads=1)
            self._stack = ExitStack()
            self._tokens, self._encode = (self._stack.enter_context(stage.open()) for stage in stages)

        def __call__(self, batch: pa.Table) -> pa.Table:
            return self._encode(self._tokens(batch))

    started = time.time()
    data = ray.data.read_parquet(str(folder / "in"), override_num_blocks=COUNT // A_UNIT)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=2)
    data = data.map_batches(Model, batch_size=A_UNIT, batch_format="pyarrow", compute=pool, num_cpus=0.9)
    data.write_parquet(str(folder / "plain"))
    print(json.dumps({"rows": COUNT, "started": started, "ended": time.time()}))


def timed(folder: Path, *calls: tuple[str, ...]) -> dict[str, float]:
    """Run calls of this file as processes at the same time: rows a second, with and without start-up."""
    for name in ("out", "plain"):
        shutil.rmtree(folder / name, ignore_errors=True)
    started = time.time()
    processes = [
        subprocess.Popen([sys.executable, __file__, str(folder), *call], stdout=subprocess.PIPE, text=True)
        for call in calls
    ]
    told = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in processes]
    rows = sum(one["rows"] for one in told)
    if rows != COUNT:
        raise SystemExit(f"{calls}: {rows} rows came out, {COUNT} went in")
    work = max(one["ended"] for one in told) - min(one["started"] for one in told)
    return {"whole": rows / (time.time() - started), "work": rows / work}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        kept: dict[str, list[dict[str, float]]] = {}

        def way(label: str, *calls: tuple[str, ...]) -> Callable[[], float]:
            def measure() -> float:
                kept.setdefault(label, []).append(timed(folder, *calls))
                print(label, kept[label][-1], flush=True)
                return kept[label][-1]["whole"]

            return measure

        ways = {
            "bare model, 1 process": way("bare model, 1 process", ("bare", "2", "0", "1")),
            "penstock inline": way("penstock inline", ("penstock", "inline", "2", "1")),
            "bare model, 2 processes": way("bare model, 2 processes", ("bare", "1", "0", "2"), ("bare", "1", "1", "2")),
            "penstock on Ray": way("penstock on Ray", ("penstock", "ray", "1", "2")),
            "plain Ray Data recipe": way("plain Ray Data recipe", ("recipe",)),
        }
        measuring.turns(ways, TURNS)
    rates = {n: {k: measuring.spread([one[k] for one in v]) for k in ("whole", "work")} for n, v in kept.items()}
    ratios = {
        "inline over bare": _ratio(kept, "penstock inline", "bare model, 1 process"),
        "ray over bare": _ratio(kept, "penstock on Ray", "bare model, 2 processes"),
        "ray over the recipe": _ratio(kept, "penstock on Ray", "plain Ray Data recipe"),
    }
    measuring.write("speed_of_light", {"sequences": COUNT, "a_unit": A_UNIT, "rows_a_second": rates, "ratios": ratios})


def _ratio(kept: dict, ours: str, theirs: str) -> dict:
    return {
        k: measuring.spread([a[k] / b[k] for a, b in zip(kept[ours], kept[theirs], strict=True)])
        for k in ("whole", "work")
    }


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        folder, what, *words = sys.argv[1:]
        call = {
            "bare": lambda threads, share, shares: bare(Path(folder), int(threads), int(share), int(shares)),
            "penstock": lambda runner, threads, replicas: penstock(Path(folder), runner, int(threads), int(replicas)),
            "recipe": lambda: recipe(Path(folder)),
        }[what]
        call(*words)
