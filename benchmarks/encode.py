"""Texts and proteins of mixed length to vectors, beside sentence-transformers, Ray Data's recipe and the bare GEMMs.

Texts: English documentation, the docstrings of torch's source, cut at MiniLM's 256 tokens; as many as
sentence-transformers encodes in 20 seconds. Every way begins with text and ends with vectors, on as many threads, all
on the processor. Each peer has the settings that were fastest for it in a first trial: sentence-transformers its batch
and backend, ONNX Runtime (and OpenVINO, where it is installed) the tokens of a padded batch and how many of them run
side by side, the recipe its inner and outer batch. The peak is that of the linear layers alone, same shapes, real
tokens only: plain or prepacked, in blocks of 512 or 4096 rows, on all threads or one on each.
Proteins: pieces of the example's antibody chains with the lengths of proteins (20 to 510), beside loops over
transformers' own module. The Ray ways are processes of their own, in which Ray is up before the clock starts and models
are loaded within the time. All ways take turns.
`make bench NAME=encode`; a trial: `python benchmarks/encode.py --texts 48 --proteins 8 --turns 1`
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import encode_peers as peers
import measuring
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from penstock.core.batch import to_numpy
from penstock.models.catalogue import folder_of
from penstock.stages.encode import Encode
from penstock.stages.tokens import Tokens

SLOWEST_SECONDS = 20
BATCHES, PADDED_TOKENS, OUTER = (8, 16, 32, 64, 128), (256, 512, 1024, 4096), (64, 256, 1024)
DOCUMENTED = 64  # inner batch of the recipe, beside sentence-transformers' best one
CHAINS = Path(__file__).parent.parent / "examples" / "antibodies" / "chains.fasta"
PENSTOCK = {
    "minilm, penstock": {},
    "minilm, penstock, int8": {"compute": "int8"},
    "minilm, penstock, reference": {"engine": "reference"},
}
GOALS = {
    "minilm over sentence-transformers": 2.0,
    "penstock on Ray over the recipe": 6.0,
    "minilm over its linear layers alone": 0.8,
    "antiberty over the loop": 2.0,
}
LEAST_COSINE = 0.999999


@dataclass(frozen=True)
class Setting:
    """How much is measured."""

    texts: int
    proteins: int
    turns: int
    threads: int


def asked(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=0, help="0: as many as sentence-transformers takes 20 s for")
    parser.add_argument("--proteins", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def docstrings() -> list[str]:
    """Docstrings of torch's source files, shuffled."""
    found: dict[str, None] = {}
    for path in sorted(Path(torch.__file__).parent.rglob("*.py"))[:900]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found[" ".join((ast.get_docstring(node) or "").split())] = None
    long = [text for text in found if len(text) > 20]
    random.Random(0).shuffle(long)
    return long


def proteins(count: int) -> list[str]:
    """Pieces of antibody chains, one after the other, with lengths that are spread like those of proteins."""
    letters = "".join(record.split("\n", 1)[1].replace("\n", "") for record in CHAINS.read_text().split(">")[1:])
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.3, 0.7, count).astype(int), 20, 510)
    starts = rng.integers(0, len(letters) - 510, count)
    return [letters[start : start + length] for start, length in zip(starts, lengths, strict=True)]


# --- trials: the best settings of each way ---------------------------------------------------------------


def fastest(work: Callable[..., object], settings: Iterable[tuple]) -> tuple[tuple, float]:
    """The setting with the shortest time, of those that *work* takes, and its seconds; one call warms up."""
    settings = list(settings)
    work(*settings[0])
    taken = {setting: measuring.seconds(lambda setting=setting: work(*setting)) for setting in settings}
    best = min(taken, key=lambda setting: taken[setting])
    print("trial:", {str(setting): round(seconds, 3) for setting, seconds in taken.items()}, flush=True)
    return best, taken[best]


def best_sentence_transformers(some: list[str]) -> tuple[Callable[[list[str]], np.ndarray], dict, float]:
    """At its best backend and batch: the way, what it is, and texts a second."""
    live = {backend: peers.sentence_transformers(backend) for backend in peers.backends()}
    settings = [(backend, size) for backend in live for size in BATCHES]
    (backend, size), seconds = fastest(lambda backend, size: live[backend](some, size), settings)
    return lambda texts: live[backend](texts, size), {"backend": backend, "batch": size}, len(some) / seconds


def best_engine(name: str, ids: list[list[int]], threads: int) -> tuple[Callable[[list], np.ndarray], dict]:
    """Another engine at its best: the way from ids to vectors, and what it is."""
    live = {side: peers.engines()[name](threads, side) for side in sorted({1, threads})}

    def work(tokens: int, side: int, rows: list | None = None) -> np.ndarray:
        return peers.vectors(live[side], rows or ids, tokens, side)

    (tokens, side), _ = fastest(work, [(tokens, side) for tokens in PADDED_TOKENS for side in live])
    return lambda rows: work(tokens, side, rows), {"padded_tokens": tokens, "side_by_side": side}


def peak(model: str, threads: int) -> tuple[Callable[[int], None], dict]:
    """The linear layers at their best."""
    live = {setting: peers.linear_layers(model, threads, *setting) for setting in peers.PEAKS}
    best, _ = fastest(lambda *setting: live[setting](8192), peers.PEAKS)
    return live[best], dict(zip(("weights", "rows", "block_on_each_thread"), best, strict=True))


# --- one process -----------------------------------------------------------------------------------------


def vectors(stages: list, table: pa.Table) -> np.ndarray:
    for transform in stages:
        table = transform(table)
    return to_numpy(table["embedding"])


def likeness(left: np.ndarray, right: np.ndarray) -> float:
    """The least cosine between rows."""
    left, right = (rows.astype(np.float64) for rows in (left, right))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


@dataclass
class Ways:
    """What is measured: by name the rows and the work, the settings that peers took, and vectors to compare."""

    work: dict[str, tuple[int, Callable[[], Any]]]
    settings: dict[str, dict]
    compared: dict[str, Callable[[], np.ndarray]]

    def rates(self) -> dict[str, Callable[[], float]]:
        return {
            name: (lambda rows=rows, work=work: rows / measuring.seconds(work))
            for name, (rows, work) in self.work.items()
        }


def text_ways(stack: ExitStack, every: list[str], setting: Setting) -> tuple[Ways, list[str]]:
    """MiniLM in this process, and the texts."""
    theirs, how, rate = best_sentence_transformers(every[: min(setting.texts or 200, 200)])
    given = every[: setting.texts or int(SLOWEST_SECONDS * rate)]
    table, count = pa.table({"text": given}), len(given)
    tokens = stack.enter_context(Tokens("minilm", column="text", too_long="truncate").open())
    ids = tokens(table)["input_ids"].to_pylist()
    ways = Ways({}, {"sentence-transformers": how}, {})

    def compared(name: str, work: Callable[[], np.ndarray]) -> None:
        ways.work[name] = (count, work)
        ways.compared[name] = work

    for name, more in PENSTOCK.items():
        stage = Encode("minilm", normalize=True, threads=setting.threads, device="cpu", **more)
        live = stack.enter_context(stage.open())
        compared(name, lambda live=live: vectors([tokens, live], table))
    compared("sentence-transformers", lambda: theirs(given))
    for name in peers.engines():
        run, ways.settings[name] = best_engine(name, ids[:200], setting.threads)
        compared(name, lambda run=run: run(tokens(table)["input_ids"].to_pylist()))
    linear, ways.settings["minilm, linear layers alone"] = peak("minilm", setting.threads)
    total = sum(map(len, ids))
    ways.work["minilm, linear layers alone"] = (count, lambda: linear(total))
    return ways, given


def protein_ways(stack: ExitStack, chains: list[str], threads: int) -> Ways:
    """AntiBERTy in this process."""
    peptides = pa.table({"sequence": chains})
    letters = stack.enter_context(Tokens("antiberty").open())
    encoder = stack.enter_context(Encode("antiberty", threads=threads, device="cpu").open())
    ids, loop = letters(peptides)["input_ids"].to_pylist(), peers.loop()
    (size,), _ = fastest(lambda size: loop(ids[:24], size), [(1,), (8,)])
    linear, how = peak("antiberty", threads)
    total = sum(map(len, ids))
    work = {
        "antiberty, penstock": lambda: vectors([letters, encoder], peptides),
        "antiberty, loop": lambda: loop(letters(peptides)["input_ids"].to_pylist(), size),
        "antiberty, linear layers alone": lambda: linear(total),
    }
    settings = {"antiberty, loop": {"batch": size}, "antiberty, linear layers alone": how}
    return Ways({name: (len(chains), each) for name, each in work.items()}, settings, {})


# --- on Ray ----------------------------------------------------------------------------------------------


def penstock_on_ray(folder: Path, threads: int) -> tuple[int, float]:
    """The same texts by a pipeline with as many actors as threads: rows and seconds, Ray's start left out."""
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.runners.ray import Ray
    from penstock.sinks.parquet import Parquet
    from penstock.sources.parquet import Parquet as Files

    pool = Place("actor", replicas=(threads, threads))
    tokens = Tokens("minilm", column="text", too_long="truncate")
    encode = Encode("minilm", normalize=True, threads=1, device="cpu")
    steps = (Step(tokens), Step(encode, pool))
    line = Pipeline("texts", Files(str(folder / "in")), Parquet(str(folder / "out")), steps)
    runner = Ray(cpus=threads)
    with runner.session():
        started = time.perf_counter()
        rows = runner.run(line).rows
        return rows, time.perf_counter() - started


def recipe(folder: Path, threads: int, outer: int, inner: int) -> tuple[int, float]:
    """What the documentation of Ray Data tells to do: a class with the model, and batches."""
    import ray

    weights = str(folder_of("minilm"))

    class Embed:
        def __init__(self) -> None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(weights, device="cpu")

        def __call__(self, batch: dict) -> dict:
            batch["embedding"] = self.model.encode(list(batch["text"]), batch_size=inner, show_progress_bar=False)
            return batch

    ray.init("local", num_cpus=threads, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.perf_counter()
    data = ray.data.read_parquet(str(folder / "in"))
    pool = ray.data.ActorPoolStrategy(size=threads)
    share = max(threads - 1, 0.5) / threads  # one CPU is left for reading, which would wait for ever without
    data.map_batches(Embed, batch_size=outer, compute=pool, num_cpus=share).write_parquet(str(folder / "out"))
    seconds = time.perf_counter() - started
    return sum(pq.read_metadata(path).num_rows for path in (folder / "out").glob("*.parquet")), seconds


def apart(folder: Path, threads: int, rows: int, *words: object) -> float:
    """Rows a second of a Ray way in a process of its own."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    call = [sys.executable, __file__, "--threads", str(threads), "--child", str(folder), *map(str, words)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["rows"] != rows:
        raise SystemExit(f"{words}: {told['rows']} rows came out, {rows} went in")
    return rows / told["seconds"]


def child(folder: Path, threads: int, kind: str, *numbers: str) -> None:
    ways = {"penstock": penstock_on_ray, "recipe": recipe}
    rows, seconds = ways[kind](folder, threads, *map(int, numbers))
    print(json.dumps({"rows": rows, "seconds": seconds}))


def ray_ways(folder: Path, given: list[str], threads: int, inner: int) -> tuple[dict[str, Callable[[], float]], dict]:
    """The pipeline and the recipe at its best batches: first the inner one, then the outer one."""
    (folder / "in").mkdir()
    for part in range(8):
        pq.write_table(pa.table({"text": given[part::8]}), folder / "in" / f"{part}.parquet")

    def run(*words: object) -> float:
        return apart(folder, threads, len(given), *words)

    tried: dict[tuple[int, int], float] = {}
    for size in sorted({inner, DOCUMENTED}):
        tried[OUTER[0], size] = run("recipe", OUTER[0], size)
    best = max(tried, key=lambda pair: tried[pair])[1]
    for outer in OUTER[1:]:
        tried[outer, best] = run("recipe", outer, best)
    pair = max(tried, key=lambda pair: tried[pair])
    print("trial of the recipe:", tried, flush=True)
    how = {"outer_batch": pair[0], "inner_batch": pair[1], "tried": {str(key): rate for key, rate in tried.items()}}
    return {"penstock on Ray": lambda: run("penstock"), "Ray Data's recipe": lambda: run("recipe", *pair)}, how


# --- the result ------------------------------------------------------------------------------------------


def ratios(found: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Turn by turn, since a slow minute of the machine hits both sides."""
    pairs = {
        "minilm over sentence-transformers": ("minilm, penstock", "sentence-transformers"),
        "minilm, int8, over sentence-transformers": ("minilm, penstock, int8", "sentence-transformers"),
        "minilm over its linear layers alone": ("minilm, penstock", "minilm, linear layers alone"),
        **{f"minilm over {name}": ("minilm, penstock", name) for name in peers.engines()},
        "minilm over the reference engine": ("minilm, penstock", "minilm, penstock, reference"),
        "antiberty over the loop": ("antiberty, penstock", "antiberty, loop"),
        "antiberty over its linear layers alone": ("antiberty, penstock", "antiberty, linear layers alone"),
        "penstock on Ray over the recipe": ("penstock on Ray", "Ray Data's recipe"),
    }
    return {
        name: measuring.spread([a / b for a, b in zip(found[ours], found[theirs], strict=True)])
        for name, (ours, theirs) in pairs.items()
    }


def goals(ratio: Mapping[str, Mapping[str, float]], cosines: Mapping[str, float]) -> dict[str, dict]:
    """What is asked for, and whether the median reaches it."""
    found = {
        name: {"goal": goal, "median": ratio[name]["median"], "reached": ratio[name]["median"] >= goal}
        for name, goal in GOALS.items()
    }
    cosine = cosines["minilm, penstock"]
    told = {"goal": LEAST_COSINE, "least": cosine, "reached": cosine >= LEAST_COSINE}
    return {**found, "cosine to sentence-transformers, float32": told}


def main(setting: Setting) -> None:
    torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        texts, given = text_ways(stack, docstrings(), setting)
        chains = protein_ways(stack, proteins(setting.proteins), setting.threads)
        on_ray, how = ray_ways(Path(name), given, setting.threads, texts.settings["sentence-transformers"]["batch"])
        setting = replace(setting, texts=len(given))
        found = measuring.turns({**texts.rates(), **chains.rates(), **on_ray}, setting.turns)
        expected = texts.compared["sentence-transformers"]()
        cosines = {name: likeness(work(), expected) for name, work in texts.compared.items()}
    ratio = ratios(found)
    slowest = min((name for name in found if not name.startswith("antiberty")), key=lambda name: max(found[name]))
    measuring.write(
        "encode",
        {
            **vars(setting),
            "slowest_way": {"name": slowest, "seconds": len(given) / measuring.spread(found[slowest])["median"]},
            "settings": {**texts.settings, **chains.settings, "Ray Data's recipe": how},
            "rows_a_second": {name: measuring.spread(rates) for name, rates in found.items()},
            "ratios": ratio,
            "least_cosine": cosines,
            "goals": goals(ratio, cosines),
        },
    )


if __name__ == "__main__":
    options = asked(sys.argv[1:])
    if options.child:
        child(Path(options.child[0]), options.threads, *options.child[1:])
    else:
        main(Setting(options.texts, options.proteins, options.turns, options.threads))
