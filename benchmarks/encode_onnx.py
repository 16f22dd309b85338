"""MiniLM for ONNX Runtime, for benchmarks/encode.py: in the fused operators that its own optimiser makes of a BERT.

See https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Given are padded ids and their mask,
int32 ``"row token"``; what comes out is the mean over each row's tokens, float32 ``"row dim"``.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.models.catalogue import folder_of

FUSED = "com.microsoft"


def graph() -> bytes:
    """The model as it lies in a file."""
    made = _Graph()
    states = made.embedding()
    for number in range(made.config["num_hidden_layers"]):
        states = made.layer(states, f"encoder.layer.{number}")
    made.mean(states)
    return made.model()


class _Graph:
    """Nodes and constants as they come; every method gives the name of what it adds."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file

        self.weights = load_file(folder_of("minilm") / "model.safetensors")
        self.config = json.loads((folder_of("minilm") / "config.json").read_bytes())
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, values: Any) -> str:
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def tensor(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def add(self, kind: str, given: list[str], made: str, domain: str = "", **more: Any) -> str:
        self.nodes.append(helper.make_node(kind, given, [made], domain=domain, **more))
        return made

    def multiplied(self, given: str, name: str) -> str:
        """A linear layer without its bias."""
        return self.add("MatMul", [given, self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)], name)

    def norm(self, name: str) -> list[str]:
        return [self.tensor(f"{name}.LayerNorm.weight"), self.tensor(f"{name}.LayerNorm.bias")]

    def embedding(self) -> str:
        words, types = (self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
        places = self.constant("places", self.weights["embeddings.position_embeddings.weight"] + types[0])
        given = ["ids", "", self.constant("words", words), places, "", *self.norm("embeddings"), "mask"]
        eps = self.config["layer_norm_eps"]
        made = ["states", "lengths"]
        self.nodes.append(helper.make_node("EmbedLayerNormalization", given, made, domain=FUSED, epsilon=eps))
        return made[0]

    def layer(self, states: str, name: str) -> str:
        thirds = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{third}.weight"].T for third in thirds], 1)
        bias = np.concatenate([self.weights[f"{third}.bias"] for third in thirds])
        given = [states, self.constant(f"{name}.w", weight), self.constant(f"{name}.b", bias), "lengths"]
        heads = self.config["num_attention_heads"]
        mixed = self.add("Attention", given, f"{name}.mixed", FUSED, num_heads=heads)
        states = self.summed(mixed, states, f"{name}.attention.output")
        up = f"{name}.intermediate.dense"
        active = self.add("BiasGelu", [self.multiplied(states, up), self.tensor(f"{up}.bias")], f"{up}.active", FUSED)
        return self.summed(active, states, f"{name}.output")

    def summed(self, given: str, states: str, name: str) -> str:
        """The LayerNorm of *states* and a linear layer's result."""
        parts = [self.multiplied(given, f"{name}.dense"), states, *self.norm(name), self.tensor(f"{name}.dense.bias")]
        return self.add("SkipLayerNormalization", parts, f"{name}.sum", FUSED, epsilon=self.config["layer_norm_eps"])

    def mean(self, states: str) -> str:
        axis, last = self.constant("axis", np.array([1])), self.constant("last", np.array([2]))
        real = self.add("Cast", [self.add("Unsqueeze", ["mask", last], "wide")], "real", to=TensorProto.FLOAT)
        sums = self.add("ReduceSum", [self.add("Mul", [states, real], "kept"), axis], "sums", keepdims=0)
        return self.add("Div", [sums, self.add("ReduceSum", [real, axis], "counts", keepdims=0)], "means")

    def model(self) -> bytes:
        made = helper.make_graph(
            self.nodes,
            "minilm",
            [helper.make_tensor_value_info(name, TensorProto.INT32, ["row", "token"]) for name in ("ids", "mask")],
            [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["row", self.config["hidden_size"]])],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        sets = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
        whole = helper.make_model(made, opset_imports=sets, ir_version=9)
        onnx.checker.check_model(whole)
        return whole.SerializeToString()
