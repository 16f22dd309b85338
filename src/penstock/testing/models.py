"""A model with random weights that is made in a moment, for tests that need a model and no meaning."""

from __future__ import annotations

from pathlib import Path

from penstock.models.tokenizer import RESIDUES

__all__ = ["tiny_encoder"]


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of 2 layers and 32 dimensions over protein letters, at most 64 tokens; gives *folder* back.

    It is in the Hugging Face layout: ``config.json``, ``model.safetensors``, ``vocab.txt``, ``README.md``.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *RESIDUES["protein"]]
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BertModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(network.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom numbers.\n", encoding="utf-8")
    return folder
