"""What benchmarks/encode.py measures beside Penstock: other libraries' ways, and the bare linear layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from penstock.models import transformer
from penstock.models.catalogue import folder_of
from penstock.models.engine import lanes
from penstock.models.transformer import batches

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Padded ids and their mask, ``"row token"``, to vectors, ``"row dim"``."""

Ids = Sequence[Sequence[int]]


# --- sentence-transformers and transformers --------------------------------------------------------------


def backends() -> list[str]:
    """Those of sentence-transformers that work here: onnx and openvino need an optimum that fits transformers."""
    found = ["torch"]
    for name, module in (("onnx", "optimum.onnxruntime"), ("openvino", "optimum.intel")):
        try:
            __import__(module)
        except ImportError as error:
            print(f"sentence-transformers' backend {name} cannot be used: {error}", flush=True)
        else:
            found.append(name)
    return found


def sentence_transformers(backend: str) -> Callable[[list[str], int], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    more = {} if backend == "torch" else {"export": True}
    model = SentenceTransformer(str(folder_of("minilm")), device="cpu", backend=backend, model_kwargs=more)
    return lambda texts, size: model.encode(texts, batch_size=size, show_progress_bar=False)


def loop() -> Callable[[Ids, int], None]:
    """Transformers' own module on proteins, in batches of a number of rows, as they come."""
    from transformers import AutoModel

    with transformer.quiet():
        network = AutoModel.from_pretrained(folder_of("antiberty"), add_pooling_layer=False).eval()

    def work(ids: Ids, size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(ids), size):
                given, mask = (torch.from_numpy(part) for part in padded(ids[start : start + size]))
                states = network(given, attention_mask=mask).last_hidden_state
                (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    return work


# --- other engines on padded rows that are sorted by length ----------------------------------------------


def padded(rows: Ids, kind: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((len(rows), max(map(len, rows))), kind)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return ids, (np.arange(ids.shape[1]) < np.array([len(tokens) for tokens in rows])[:, None]).astype(kind)


def vectors(run: Run, ids: Ids, tokens: int, side_by_side: int) -> np.ndarray:
    """Vectors of length one, in batches of at most *tokens* with padding, so many at a time."""
    found = np.empty((len(ids), 384), np.float32)

    def work(cut: np.ndarray) -> None:
        means = run(*padded([ids[row] for row in cut], np.int32))
        found[cut] = means / np.linalg.norm(means, axis=1, keepdims=True)

    with lanes(side_by_side) as each:
        each(work, list(batches(np.array([len(row) for row in ids]), tokens)))
    return found


def engines() -> dict[str, Callable[[int, int], Run]]:
    """By name, what opens each for a number of threads and as many of its batches at a time."""
    return {"ONNX Runtime": onnxruntime, **({"OpenVINO": openvino} if find_spec("openvino") else {})}


def onnxruntime(threads: int, side_by_side: int) -> Run:
    import encode_onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads // side_by_side
    session = ort.InferenceSession(encode_onnx.graph(), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]


def openvino(threads: int, side_by_side: int) -> Run:
    import openvino as ov

    example = torch.ones(2, 8, dtype=torch.int32)
    model = ov.convert_model(_Means().eval(), example_input=(example, example), input=[([-1, -1], ov.Type.i32)] * 2)
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": side_by_side,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return lambda ids, mask: compiled.create_infer_request().infer([ids, mask])[0].copy()


class _Means(torch.nn.Module):
    """MiniLM by transformers, with the mean over tokens."""

    def __init__(self) -> None:
        from transformers import AutoModel

        super().__init__()
        with transformer.quiet():
            self.network = AutoModel.from_pretrained(folder_of("minilm"), add_pooling_layer=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.network(input_ids=ids.long(), attention_mask=mask.long()).last_hidden_state
        real = mask[..., None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1)


# --- the linear layers alone -----------------------------------------------------------------------------

PEAKS = [(kind, rows, split) for kind in ("plain", "prepacked") for rows in (512, 4096) for split in (False, True)]
"""How linear layers can be run: weights as they are or packed by oneDNN, in blocks of so many tokens, one block on
all threads or one on each."""


def linear_layers(model: str, threads: int, kind: str, rows: int, split: bool) -> Callable[[int], None]:
    """The linear layers of *model* on a number of tokens, weights ready."""
    config = json.loads((folder_of(model) / "config.json").read_bytes())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    given = {size: torch.randn(rows, size) for size in (width, inner)}
    shapes = [(3 * width, width), (width, width), (inner, width), (width, inner)] * layers
    weights = [(torch.randn(shape), torch.randn(shape[0])) for shape in shapes]
    multiply = [_multiply(kind, rows, *pair) for pair in weights]

    def block(count: np.ndarray) -> None:
        with torch.inference_mode():
            for (_, columns), apply in zip(shapes, multiply, strict=True):
                apply(given[columns][: int(count[0])])

    def work(tokens: int) -> None:
        blocks = [np.array([min(rows, tokens - start)]) for start in range(0, tokens, rows)]
        with _many(threads, split) as each:
            each(block, blocks)

    return work


@contextmanager
def _many(threads: int, split: bool) -> Iterator[Callable]:
    with lanes(threads) as each:
        yield each if split else lambda work, blocks: [work(one) for one in blocks]


def _multiply(kind: str, rows: int, weight: torch.Tensor, bias: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    if kind == "plain":
        return lambda given: functional.linear(given, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    apply = torch.ops.mkldnn._linear_pointwise.default
    return lambda given: apply(given, packed, bias, "none", [], "")
