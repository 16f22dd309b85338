"""Texts and proteins of mixed length to vectors, beside sentence-transformers, Ray Data's recipe and the bare GEMMs.

Texts: English documentation, the docstrings of torch's source, cut at MiniLM's 256 tokens. Every way begins with text
and ends with vectors, on as many threads. sentence-transformers and the recipe take the batch size that was fastest
for them in a first trial. The peak is the time of the linear layers alone, same shapes, real tokens only.
Proteins: pieces of the example's antibody chains with the lengths of proteins (20 to 510), beside loops over
transformers' own module. The Ray ways are processes of their own, models loaded within the time.
`make bench NAME=encode`
"""

from __future__ import annotations

import ast
import json
import os
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
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from penstock.core.batch import to_numpy
from penstock.models import transformer
from penstock.models.catalogue import folder_of
from penstock.stages.encode import Encode
from penstock.stages.tokens import Tokens

TEXTS, PROTEINS = int(os.environ.get("BENCH_TEXTS", "1200")), int(os.environ.get("BENCH_PROTEINS", "200"))
TURNS, THREADS = int(os.environ.get("BENCH_TURNS", "4")), int(os.environ.get("BENCH_THREADS", "2"))
BATCHES = tuple(int(size) for size in os.environ.get("BENCH_BATCHES", "8,16,32,64,128").split(","))
RAY_BATCHES = (64, 256)
CHAINS = Path(__file__).parent.parent / "examples" / "antibodies" / "chains.fasta"


def texts() -> list[str]:
    """Docstrings of torch's source files, shuffled."""
    found: dict[str, None] = {}
    for path in sorted(Path(torch.__file__).parent.rglob("*.py"))[:900]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found[" ".join((ast.get_docstring(node) or "").split())] = None
    long = [text for text in found if len(text) > 20]
    random.Random(0).shuffle(long)
    return long[:TEXTS]


def proteins() -> list[str]:
    """Pieces of antibody chains, one after the other, with lengths that are spread like those of proteins."""
    letters = "".join(record.split("\n", 1)[1].replace("\n", "") for record in CHAINS.read_text().split(">")[1:])
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.3, 0.7, PROTEINS).astype(int), 20, 510)
    starts = rng.integers(0, len(letters) - 510, PROTEINS)
    return [letters[start : start + length] for start, length in zip(starts, lengths, strict=True)]


# --- one process -----------------------------------------------------------------------------------------


def sentence_transformers(given: list[str]) -> Callable[[int], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder_of("minilm")), device="cpu")
    return lambda size: model.encode(given, batch_size=size, show_progress_bar=False)


def loop(ids: list[list[int]]) -> Callable[[int], None]:
    """Transformers' own module on proteins, in batches of *size* rows as they come."""
    from transformers import AutoModel

    with transformer.quiet():
        network = AutoModel.from_pretrained(folder_of("antiberty"), add_pooling_layer=False).eval()

    def work(size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(ids), size):
                rows = ids[start : start + size]
                given = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
                for row, tokens in enumerate(rows):
                    given[row, : len(tokens)] = torch.tensor(tokens)
                mask = given != 0
                states = network(given, attention_mask=mask.long()).last_hidden_state
                (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    return work


def gemms(model: str, tokens: int) -> Callable[[], None]:
    """The linear layers of *model* alone on so many tokens, weights ready, in blocks of 4096 tokens."""
    config = json.loads((folder_of(model) / "config.json").read_bytes())
    width, inner = config["hidden_size"], config["intermediate_size"]
    given = {size: torch.randn(4096, size) for size in (width, inner)}
    weights = [torch.randn(rows, columns) for rows, columns in _shapes(width, inner)]

    def work() -> None:
        with torch.inference_mode():
            for start in range(0, tokens, 4096):
                some = min(4096, tokens - start)
                for _ in range(config["num_hidden_layers"]):
                    for weight in weights:
                        functional.linear(given[weight.shape[1]][:some], weight)

    return work


def _shapes(width: int, inner: int) -> list[tuple[int, int]]:
    return [(3 * width, width), (width, width), (inner, width), (width, inner)]


def fastest(work: Callable[[int], object], sizes: tuple[int, ...]) -> int:
    """The batch size with the shortest time, after one call to warm up."""
    work(sizes[0])
    return min(sizes, key=lambda size: measuring.seconds(lambda: work(size)))


def vectors(stages: list, table: pa.Table) -> np.ndarray:
    for transform in stages:
        table = transform(table)
    return to_numpy(table["embedding"])


def likeness(left: np.ndarray, right: np.ndarray) -> float:
    """The least cosine between rows."""
    left, right = (rows.astype(np.float64) for rows in (left, right))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(1) / norms).min())


def one_process(stack: ExitStack, given: list[str], chains: list[str]) -> dict:
    """MiniLM and AntiBERTy in this process: rates and likeness."""
    torch.set_num_threads(THREADS)
    table, peptides = pa.table({"text": given}), pa.table({"sequence": chains})
    tokens = stack.enter_context(Tokens("minilm", column="text", too_long="truncate").open())
    letters = stack.enter_context(Tokens("antiberty").open())
    ids = letters(peptides)["input_ids"].to_pylist()

    def encoder(model: str, **more) -> Callable:
        return stack.enter_context(Encode(model, threads=THREADS, **more).open())

    theirs = sentence_transformers(given)
    peptide_loop = loop(ids)
    size, pack = fastest(theirs, BATCHES), fastest(peptide_loop, (1, 8))
    text_tokens, peptide_tokens = sum(map(len, tokens(table)["input_ids"].to_pylist())), sum(map(len, ids))
    ours = {name: encoder("minilm", normalize=True, **more) for name, more in WAYS.items()}
    peptide = encoder("antiberty", special="include")
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        **{name: (TEXTS, lambda way=way: vectors([tokens, way], table)) for name, way in ours.items()},
        f"sentence-transformers, batches of {size}": (TEXTS, lambda: theirs(size)),
        "minilm, linear layers alone": (TEXTS, gemms("minilm", text_tokens)),
        "antiberty, penstock": (PROTEINS, lambda: vectors([letters, peptide], peptides)),
        f"antiberty, loop over batches of {pack}": (PROTEINS, lambda: peptide_loop(pack)),
        "antiberty, linear layers alone": (PROTEINS, gemms("antiberty", peptide_tokens)),
    }
    found = measuring.turns(
        {name: (lambda rows=rows, work=work: rows / measuring.seconds(work)) for name, (rows, work) in ways.items()},
        TURNS + 1,
    )
    expected = theirs(size)
    return {
        "texts": TEXTS,
        "text_tokens": text_tokens,
        "proteins": PROTEINS,
        "protein_tokens": peptide_tokens,
        "threads": THREADS,
        "rows_a_second": {name: measuring.spread(rates[1:]) for name, rates in found.items()},
        "ratios": ratios(found),
        "least_cosine": {name: likeness(vectors([tokens, way], table), expected) for name, way in ours.items()},
    }


WAYS = {
    "minilm, penstock": {},
    "minilm, penstock, int8": {"compute": "int8"},
    "minilm, penstock, reference": {"engine": "reference"},
}


def ratios(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Turn by turn, since a slow minute of the machine hits both sides."""

    def over(ours: str, theirs: str) -> dict[str, float]:
        [other] = [name for name in found if name.startswith(theirs)]
        return measuring.spread([a / b for a, b in zip(found[ours][1:], found[other][1:], strict=True)])

    return {
        "minilm over sentence-transformers": over("minilm, penstock", "sentence-transformers"),
        "minilm, int8, over sentence-transformers": over("minilm, penstock, int8", "sentence-transformers"),
        "minilm over its linear layers alone": over("minilm, penstock", "minilm, linear"),
        "antiberty over the loop": over("antiberty, penstock", "antiberty, loop"),
        "antiberty over its linear layers alone": over("antiberty, penstock", "antiberty, linear"),
    }


# --- on Ray ----------------------------------------------------------------------------------------------


def penstock_on_ray(folder: Path) -> None:
    """The same texts by a pipeline with two actors."""
    from penstock.core.nouns import Pipeline, Place, Step
    from penstock.runners.ray import Ray
    from penstock.sinks.parquet import Parquet
    from penstock.sources.parquet import Parquet as Files

    pool = Place("actor", replicas=(THREADS, THREADS))
    steps = (Tokens("minilm", column="text", too_long="truncate"), Encode("minilm", normalize=True, threads=1))
    line = Pipeline(
        "texts",
        Files(str(folder / "in")),
        Parquet(str(folder / "out")),
        (Step(steps[0]), Step(steps[1], pool)),
    )
    started = time.time()
    rows = Ray(cpus=THREADS).run(line).rows
    print(json.dumps({"rows": rows, "seconds": time.time() - started}))


def recipe(folder: Path, size: int) -> None:
    """What the documentation of Ray Data tells to do: a class with the model, batches of *size*."""
    import ray

    weights = str(folder_of("minilm"))

    class Embed:
        def __init__(self) -> None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(weights, device="cpu")

        def __call__(self, batch: dict) -> dict:
            batch["embedding"] = self.model.encode(list(batch["text"]), batch_size=64, show_progress_bar=False)
            return batch

    started = time.time()
    ray.init("local", num_cpus=THREADS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    data = ray.data.read_parquet(str(folder / "in"))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=THREADS)
    data.map_batches(Embed, batch_size=size, compute=pool, num_cpus=0.9).write_parquet(str(folder / "out"))
    print(json.dumps({"rows": TEXTS, "seconds": time.time() - started}))


def on_ray(folder: Path, given: list[str]) -> dict:
    """Rates of whole runs, each a process of its own."""
    (folder / "in").mkdir()
    for part in range(8):
        pq.write_table(pa.table({"text": given[part::8]}), folder / "in" / f"{part}.parquet")

    def way(*words: str) -> Callable[[], float]:
        def measure() -> float:
            shutil.rmtree(folder / "out", ignore_errors=True)
            call = [sys.executable, __file__, str(folder), *words]
            told = json.loads(
                subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
            )
            if told["rows"] != TEXTS:
                raise SystemExit(f"{words}: {told['rows']} rows came out, {TEXTS} went in")
            return TEXTS / told["seconds"]

        return measure

    ways = {f"recipe, batches of {size}": way("recipe", str(size)) for size in RAY_BATCHES}
    found = measuring.turns({"penstock on Ray": way("penstock"), **ways}, max(1, TURNS // 2))
    best = [max(turn) for turn in zip(*(found[name] for name in ways), strict=True)]
    ratio = [ours / theirs for ours, theirs in zip(found["penstock on Ray"], best, strict=True)]
    return {
        "rows_a_second, whole runs": {name: measuring.spread(rates) for name, rates in found.items()},
        "penstock on Ray over the recipe": measuring.spread(ratio),
    }


def main() -> None:
    given = texts()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        result = one_process(stack, given, proteins())
        measuring.write("encode", {**result, "on_ray": on_ray(Path(name), given)})


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[2] == "recipe":
        recipe(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        penstock_on_ray(Path(sys.argv[1]))
