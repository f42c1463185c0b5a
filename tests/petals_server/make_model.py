"""Make tiny random Llamas that `petals.cli.run_server` can serve: `python make_model.py FOLDER NAME:LAYERS:KIND …`.

Runs inside the server's environment, offline, in some seconds. The same number of layers gives the same weights; the
kind `other` gives others, `nan` the same with NaN in the MLP of the last but one layer, `lora` a LoRA adapter for the
same that changes what comes out.
"""

from __future__ import annotations

import sys
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
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        how = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
        get_peft_model(model, how).save_pretrained(folder, safe_serialization=True)
        return
    if kind == "nan":
        with torch.no_grad():
            model.model.layers[-2].mlp.up_proj.weight.fill_(float("nan"))
    model.save_pretrained(folder, safe_serialization=False)


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        name, layers, kind = wanted.split(":")
        make_model(Path(sys.argv[1], name), int(layers), kind)
