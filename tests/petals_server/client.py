"""What Petals' genuine client gets from a swarm: `python client.py FILE` inside the server's environment.

FILE is JSON: `model` (a folder), `initial_peers`, `servers` (by DHT prefix the peer ids: no others are used), `inputs`
(hidden states, one for each token). The last line is `RESULT` and JSON, by DHT prefix: `states`, what
`RemoteSequential` makes of the inputs; `seconds`, of each of some more tokens; `tokens`, what the model generates;
`error`, where it gave up.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from runner import restore_hivemind_names

restore_hivemind_names()

import torch  # noqa: E402
from petals import AutoDistributedModelForCausalLM  # noqa: E402

MORE_TOKENS = 8
GENERATED = 4


def run(asked: dict[str, Any], dht_prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {"states": [], "seconds": [], "tokens": [], "error": None}
    try:
        model = AutoDistributedModelForCausalLM.from_pretrained(
            asked["model"],
            dht_prefix=dht_prefix,
            initial_peers=asked["initial_peers"],
            allowed_servers=asked["servers"][dht_prefix],
            torch_dtype=torch.float32,
            request_timeout=8,
            max_retries=1,
            use_chunked_forward=False,  # else it asks for a package about CPUs
        )
        with torch.inference_mode(), model.model.layers.inference_session(max_length=32) as session:
            for values in asked["inputs"]:
                state = session.step(torch.tensor(values)[None, None])
                result["states"].append(state.flatten().tolist())
            for _ in range(MORE_TOKENS):
                started = time.perf_counter()
                session.step(torch.tensor(asked["inputs"][0])[None, None])
                result["seconds"].append(time.perf_counter() - started)
        generated = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=GENERATED, do_sample=False)
        result["tokens"] = generated[0, 3:].tolist()
    except Exception as error:  # noqa: BLE001 - whatever a user would see
        result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return result


if __name__ == "__main__":
    # NaN stands for itself in Python's JSON.
    asked = json.loads(Path(sys.argv[1]).read_text())
    print("RESULT " + json.dumps({prefix: run(asked, prefix) for prefix in asked["servers"]}), flush=True)  # noqa: T201
