"""This module defines a model as settings and announcements name it, and the public swarm's official models."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec

MAX_BLOCKS = 1024
"""The largest model that Petals serves has 126; each block costs a DHT lookup, and anyone may announce 10^9."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model whose servers announce its blocks under the DHT keys `{dht_prefix}.{block}`."""

    dht_prefix: str
    num_blocks: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCKS)]
    repository: str | None = None
    official: bool = True
    limited: bool = False
    """Whether its licence forbids public use."""

    @property
    def name(self) -> str:
        """Return `owner/name` of the repository; where there is none, the DHT prefix."""
        return urlsplit(self.repository).path.strip("/") if self.repository else self.dht_prefix

    @property
    def short_name(self) -> str:
        return self.name.rpartition("/")[2]


def _hub(dht_prefix: str, repository: str, num_blocks: int, *, limited: bool = False) -> Model:
    return Model(dht_prefix, num_blocks, f"https://huggingface.co/{repository}", limited=limited)


DEFAULT_PUBLIC_MODELS = (
    _hub("StableBeluga2-hf", "petals-team/StableBeluga2", 80),
    _hub("falcon-180B-chat", "tiiuae/falcon-180B-chat", 80, limited=True),
    _hub("CodeLlama-34b-Instruct-hf", "codellama/CodeLlama-34b-Instruct-hf", 48),
    _hub("Llama-2-70b-chat-hf", "meta-llama/Llama-2-70b-chat-hf", 80),
    _hub("Llama-2-70b-hf", "meta-llama/Llama-2-70b-hf", 80),
    _hub("llama-65b-hf", "huggyllama/llama-65b", 80),
    _hub("bigscience/bloomz-petals", "bigscience/bloomz", 70),
    _hub("bigscience/bloom-petals", "bigscience/bloom", 70),
)
"""The models that the public swarm's own monitor lists."""
