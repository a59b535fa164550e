"""Servers in this process: a real socket, uvicorn in a thread, and an engine."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import LoraConfig
from smidgen.inference import LocalEngine, llama_files
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.llama_files import llama_model
from smidgen.inference.mlx import MlxEngine
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.lora import add_lora, save_adapter
from smidgen.serving.app import build_app
from smidgen.serving.names import ModelNames
from smidgen.serving.scheduler import Scheduler
from smidgen.serving.server import DrainingServer, bind, url_of
from smidgen.serving.service import Service, ServingSettings


@dataclass
class Started:
    """A server that runs, and a client of it."""

    url: str
    client: httpx2.Client
    scheduler: Scheduler
    server: DrainingServer
    engine: LocalEngine

    def chat(self, text: str = "Hello", **body: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": text}]
        return self.client.post("/chat/completions", json={"messages": messages, "max_tokens": 8, **body})

    def complete(self, prompt: Any = "Hello", **body: Any) -> httpx2.Response:
        return self.client.post("/completions", json={"prompt": prompt, "max_tokens": 8, **body})

    def wait_until(self, *, running: int, waiting: int = 0) -> None:
        """Wait until the scheduler has as many requests."""
        end = time.monotonic() + 20
        while (self.scheduler.running, self.scheduler.waiting) != (running, waiting):
            assert time.monotonic() < end, (self.scheduler.running, self.scheduler.waiting)
            time.sleep(0.002)


def chunks_of(response: httpx2.Response) -> list[dict]:
    """The chunks of a stream, which has to end as OpenAI's do."""
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@contextmanager
def started(
    engine: LocalEngine,
    adapters: dict[str, Path] | None = None,
    *,
    places: int | None = None,
    most_waiting: int = 64,
    settings: ServingSettings | None = None,
    grace_s: float = 5.0,
    idle_s: float | None = None,
    slow_s: float = 0.0,
) -> Iterator[Started]:
    """Serve an engine as the model `base`; every step of it takes `slow_s` longer."""
    listening, session = bind("127.0.0.1", 0), engine.session()
    listening.listen()
    if slow_s:
        step = session.step
        session.step = lambda **given: (time.sleep(slow_s), step(**given))[1]  # type: ignore[method-assign]
    scheduler = Scheduler(session, places=places or engine.batch_size, most_waiting=most_waiting)
    service = Service(
        ModelNames("base", adapters or {}), scheduler, engine.tokenizer, settings or ServingSettings()
    )
    server = DrainingServer(build_app(service), scheduler, grace_s=grace_s, idle_s=idle_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = url_of(listening)
    limits = httpx2.Limits(max_connections=None)
    with httpx2.Client(base_url=url, timeout=60, limits=limits, trust_env=False, verify=False) as client:
        try:
            yield Started(url, client, scheduler, server, engine)
        finally:
            server.should_exit = True
            scheduler.close()
            thread.join()


@pytest.fixture(scope="module")
def adapter_folders(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six adapters of the tiny model, the later ones stronger: more than an engine keeps."""
    made, config = {}, LoraConfig(rank=4, alpha=8, num_layers=1, target_modules=("q_proj", "down_proj"))
    for i in range(6):
        graph, rng = load(str(tiny_model_dir)).model, np.random.default_rng(i)
        add_lora(graph, config, seed=0)
        trained = named_arrays(graph.trainable_parameters())
        updates = [
            (n, mx.array(rng.normal(0, 0.2 + 0.1 * i, v.shape), mx.float32)) for n, v in trained.items()
        ]
        graph.load_weights(updates, strict=False)
        made[f"adapter-{i}"] = tmp_path_factory.mktemp("adapters") / str(i)
        save_adapter(made[f"adapter-{i}"], graph, config)
    return made


@pytest.fixture(scope="session")
def gguf_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for converted models."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(llama_files, "cache_dir", lambda: folder)
        patch.setenv("SMIDGEN_CACHE", str(folder))
        yield


@pytest.fixture(scope="session", params=["mlx", "llama"])
def engine(request: pytest.FixtureRequest, gguf_cache: None) -> Iterator[LocalEngine]:
    """The bundled model in each engine, with four places."""
    if request.param == "mlx":
        opened: LocalEngine = MlxEngine(load("smidgen:nano"), batch_size=4)
    else:
        opened = LlamaEngine(llama_model("smidgen:nano", dtype="F32"), batch_size=4)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server(engine: LocalEngine) -> Iterator[Started]:
    with started(engine) as running:
        yield running
