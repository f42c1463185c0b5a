"""Make a tiny random Llama that `petals.cli.run_server` can serve: `python make_model.py FOLDER --layers N`.

Runs inside the server's environment, offline, in about two seconds. The same N gives the same weights; `--kind other`
gives others, `--kind nan` the same with NaN in the MLP of the last but one layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN = 64


def make_model(folder: Path, layers: int, kind: str) -> None:
    """Write `config.json` and the weights: petals loads its blocks from both, and needs no tokenizer."""
    torch.manual_seed(layers + 1000 * (kind == "other"))
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    )
    # petals 2.2 reads PyTorch's own format, with an index or as one file.
    model = LlamaForCausalLM(config)
    if kind == "nan":
        with torch.no_grad():
            model.model.layers[-2].mlp.up_proj.weight.fill_(float("nan"))
    model.save_pretrained(folder, safe_serialization=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--kind", choices=("good", "other", "nan"), default="good")
    arguments = parser.parse_args()
    make_model(arguments.folder, arguments.layers, arguments.kind)
