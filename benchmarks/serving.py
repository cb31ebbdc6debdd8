"""Serving on a CPU: `python -m counterpoise.serve` against the text-classification pipeline of transformers.

`python benchmarks/serving.py RUN` exports a finished run as int8 and fp32 ONNX, unless the run has these exports, and
starts four servers, one process each, with all cores. Without RUN, it measures MiniLM with an untrained head of 52
classes.

ours, int8 and fp32    `python -m counterpoise.serve` of the exported folders
pipeline               FastAPI and uvicorn, too: texts wait in a queue and are classified one after the other
pipeline, batched      all texts that wait, at most 32, are classified as one batch

The texts are those of Reuters R52's test split, one per request. Each client sends its next request when it has the
answer to the last one. Load generator and servers share the cores. The servers are measured in turn, in alternating
order; a measurement ends after `--requests` requests or `--seconds` seconds. CPU time is that of the server alone, and
depends less on other processes than latency does.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import transformers
import uvicorn
from fastapi import FastAPI
from hydra.utils import instantiate
from inference import CONF, pipeline, write_run
from measure import ratio, report
from omegaconf import OmegaConf
from pydantic import BaseModel

from counterpoise.commands.onnx_export import export
from counterpoise.commands.serve import _listen
from counterpoise.errors import UserError
from counterpoise.terminal import command_line

PEER = "pipeline, batched"
MAX_BATCH = 32
"""Texts per batch of the pipeline."""


@dataclass
class Server:
    """A running server and what was measured of it.

    Args:
        address: Host and port.
        process: Its process.
        latencies: Milliseconds of each answered request, by number of clients.
        speeds: Texts per second of each repetition, by number of clients.
        cpu: CPU milliseconds of the server per text, of each repetition, by number of clients.
    """

    address: str
    process: psutil.Process
    latencies: dict[int, list[float]] = field(default_factory=dict)
    speeds: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, texts: Sequence[str], clients: int, requests: int, seconds: float) -> None:
        """Send requests from several clients at once, and keep the numbers."""
        stream, lock, found = itertools.cycle(texts), threading.Lock(), []
        end, left = time.perf_counter() + seconds, itertools.count(requests, -1)

        def send() -> None:
            connection = http.client.HTTPConnection(self.address, timeout=60)
            while time.perf_counter() < end:
                with lock:
                    text, remaining = next(stream), next(left)
                if remaining <= 0:
                    return
                begin = time.perf_counter()
                body = json.dumps({"text": text})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise UserError(f"{self.address} answered {answer.status}")
                found.append(1000 * (time.perf_counter() - begin))

        before, begin = sum(self.process.cpu_times()[:2]), time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(send) for _ in range(clients)]:
                done.result()
        elapsed, used = time.perf_counter() - begin, sum(self.process.cpu_times()[:2]) - before
        self.latencies.setdefault(clients, []).extend(found)
        self.speeds.setdefault(clients, []).append(len(found) / elapsed)
        self.cpu.setdefault(clients, []).append(1000 * used / len(found))


@contextmanager
def running(command: Sequence[str | Path]) -> Iterator[Server]:
    """Start a server that prints its address, and stop it at the end."""
    started = [sys.executable, *map(str, command)]
    process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                yield Server(line.split("http://")[1].split()[0], psutil.Process(process.pid))
                return
        raise UserError(f"a server did not start: {' '.join(started)}")
    finally:
        process.terminate()
        process.wait(30)


class Body(BaseModel):
    """Body of a request to the pipeline."""

    text: str


def serve_pipeline(run: Path, batched: bool) -> None:
    """Serve the pipeline on a free port until the process is terminated."""
    classify = pipeline(run)
    classify(["a text"], 1)
    queue: asyncio.Queue[tuple[str, asyncio.Future]] = asyncio.Queue()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            while True:
                batch = [await queue.get()]
                while batched and len(batch) < MAX_BATCH and not queue.empty():
                    batch.append(queue.get_nowait())
                texts = [text for text, _ in batch]
                found = await loop.run_in_executor(pool, classify, texts, len(texts))
                for (_, result), row in zip(batch, found, strict=True):
                    result.set_result(row)

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        yield
        task.cancel()

    application = FastAPI(lifespan=lifespan)

    @application.post("/predict")
    async def predict(body: Body) -> Any:
        result = asyncio.get_running_loop().create_future()
        await queue.put((body.text, result))
        return await result

    with _listen("127.0.0.1", 0) as listening:
        print(f"pipeline at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run (default: untrained MiniLM)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="clients at once (default: 1 8 32)")
    parser.add_argument("--requests", type=int, default=300, help="largest number per measurement (default: 300)")
    parser.add_argument("--seconds", type=float, default=20, help="longest measurement (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    parser.add_argument("--pipeline", choices=("one", "batched"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.getLogger("counterpoise").setLevel(logging.ERROR)
    if arguments.pipeline:
        serve_pipeline(arguments.run, arguments.pipeline == "batched")
        return
    source = instantiate(OmegaConf.load(CONF / "data" / "reuters_r52.yaml"))
    source.prepare()
    texts = source.load()["test"].texts.to_pylist()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        run = Path(temporary) / "run"
        write_run(run, arguments.run)
        for name in ("onnx", "onnx-int8"):
            if arguments.run and (arguments.run / name / "export.json").is_file():
                shutil.copytree(arguments.run / name, run / name)
            else:
                export(run, run / name, int8=name == "onnx-int8")
        ours = ["-m", "counterpoise.serve", "--port", "0"]
        commands = {
            "ours, int8": [*ours, run / "onnx-int8"],
            "ours, fp32": [*ours, run / "onnx"],
            "pipeline": [__file__, run, "--pipeline", "one"],
            PEER: [__file__, run, "--pipeline", "batched"],
        }
        servers = {name: stack.enter_context(running(command)) for name, command in commands.items()}
        for server in servers.values():
            Server(server.address, server.process).measure(texts, 4, requests=40, seconds=arguments.seconds)  # warm-up
        for turn in range(arguments.repeats):
            for clients in arguments.clients:
                for name in list(servers)[:: -1 if turn % 2 else 1]:
                    servers[name].measure(texts, clients, arguments.requests, arguments.seconds)
    title = f"serving, one text per request, {len(os.sched_getaffinity(0))} cores for servers and clients"
    report(title, [_row(name, clients, servers) for clients in arguments.clients for name in servers], arguments.json)


def _row(name: str, clients: int, servers: dict[str, Server]) -> dict[str, Any]:
    server, peer = servers[name], servers[PEER]
    middle, least, most = ratio(server.speeds[clients], peer.speeds[clients])
    return {
        "": name,
        "clients": clients,
        "p50 ms": np.median(server.latencies[clients]).item(),
        "p99 ms": np.percentile(server.latencies[clients], 99).item(),
        "texts/s": statistics.median(server.speeds[clients]),
        "CPU ms per text": statistics.median(server.cpu[clients]),
        "this / batched pipeline": middle,
        "min": least,
        "max": most,
    }


if __name__ == "__main__":
    command_line(main)
