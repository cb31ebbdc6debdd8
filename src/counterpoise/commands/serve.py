"""Serve predictions over HTTP: `python -m counterpoise.serve EXPORT`.

    POST /predict   {"text": "..."} or {"texts": ["...", ...]}, and optionally "top", the number of classes to return
                    (a model of several columns of text: a list of their texts in place of each "...")
    GET  /health    {"status": "ok", ...} as soon as the model is loaded
    GET  /          a page to try texts

One process serves all requests. Texts that arrive while the model is busy are predicted together, in the next batch.
Errors are JSON, {"error": "..."}. There is no authentication: put a proxy in front of a public server.
"""

import argparse
import logging
import socket
from pathlib import Path

from counterpoise.commands.arguments import Parser
from counterpoise.commands.text_classifier import TextClassifier
from counterpoise.commands.trusted_classes import allowed_packages
from counterpoise.errors import UserError
from counterpoise.terminal import LogConsole


def main() -> None:
    """Read the command line, load the model and serve it until Ctrl-C."""
    parser = Parser(
        prog="counterpoise.serve", description="Serve the predictions of a model over HTTP, with a page to try texts."
    )
    parser.add_argument("model", type=Path, help="folder of an exported model, or of a finished run or ensemble")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: a free one (default: 8000)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one (default)")
    parser.add_argument("--calibrated", action="store_true", help="return calibrated probabilities")
    parser.add_argument("--max-texts", type=_positive, default=256, help="texts per request and batch (default: 256)")
    parser.add_argument(
        "--max-characters", type=_positive, default=100_000, help="characters per text (default: 100,000)"
    )
    parser.add_argument("--timeout", type=_positive, default=30, help="seconds a request may take (default: 30)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE", help="package whose classes a run may use"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[LogConsole()])
    try:
        import uvicorn

        from counterpoise.commands.web_application import Limits, create_application
    except ImportError as error:
        raise UserError(f"serving needs {error.name}: pip install 'counterpoise[serve]'") from error

    model = TextClassifier.load(arguments.model, device=arguments.device, packages=allowed_packages(arguments.allow))
    limits = Limits(arguments.max_texts, arguments.max_characters, arguments.timeout)
    name = "/".join(arguments.model.resolve().parts[-2:])  # an export is named after its format: show its run, too
    application = create_application(model, name, limits, arguments.calibrated)
    with _listen(arguments.host, arguments.port) as listening:
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"serving {arguments.model} at http://{host}:{listening.getsockname()[1]} (Ctrl-C stops)", flush=True)
        uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Connections inherit it. asyncio does not set it on those of a given socket, and their responses, of two
        # packets, would wait 40 ms for the client's delayed acknowledgement of the first.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {reason}") from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)
