"""The web application of `counterpoise.serve`: one model, predictions as JSON, and a page to try texts."""

import asyncio
import html
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoise.commands.text_classifier import Predictions, TextClassifier

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("try_texts.html")
QUEUED_BATCHES = 8
"""Batches of texts that may wait. Further requests are refused at once, instead of timing out later."""
MAX_BYTES = 8 * 2**20
"""Largest body of a request."""
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: it loads nothing, and sends texts to this server only."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Args:
        max_texts: Texts per request, and per batch of the model.
        max_characters: Characters per text.
        timeout: Seconds that a request may take, waiting included.
    """

    max_texts: int = 256
    max_characters: int = 100_000
    timeout: float = 30.0


def _require_unicode(text: str) -> str:
    """Raise ValueError for half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text is not valid Unicode")
    return text


Text = Annotated[str, AfterValidator(_require_unicode)]


class Texts(BaseModel):
    """Body of a request: one text, or several. A text of several columns is a list of their texts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | list[Text] | None = None
    texts: list[Text | list[Text]] | None = None
    top: Annotated[int, Field(ge=1)] = 5

    @model_validator(mode="after")
    def _check(self) -> "Texts":
        if (self.text is None) == (self.texts is None):
            raise ValueError('give either "text" or "texts"')
        return self


class Batcher:
    """Predicts the texts of concurrent requests together.

    While the model is busy, texts wait; then all that wait are predicted in one batch. An idle model starts at once.

    Args:
        predict: Predicts a list of texts; called in a separate thread.
        limits: Limits of a request.
    """

    def __init__(self, predict: Callable[[list[Any]], Predictions], limits: Limits) -> None:
        self._predict, self._limits = predict, limits
        self._waiting: list[tuple[list[Any], asyncio.Future[list[Any]]]] = []
        self._arrived = asyncio.Event()

    async def submit(self, texts: list[Any]) -> list[Any]:
        """Return one row per text: (label or labels, probabilities float64 [C], reason).

        Raises:
            HTTPException: Too many texts wait, or the time is over.
        """
        if sum(len(each) for each, _ in self._waiting) + len(texts) > QUEUED_BATCHES * self._limits.max_texts:
            raise HTTPException(503, "the server is overloaded: try again later", {"Retry-After": "1"})
        result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, result))
        self._arrived.set()
        try:
            return await asyncio.wait_for(result, self._limits.timeout)
        except TimeoutError:
            raise HTTPException(503, f"the prediction took more than {self._limits.timeout:g} s") from None

    async def run(self) -> None:
        """Predict what arrives, until this is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "predict") as pool:
            while True:
                await self._arrived.wait()
                if not (batch := self._next_batch()):
                    continue
                texts = [text for own, _ in batch for text in own]
                try:
                    found = await loop.run_in_executor(pool, self._predict, texts)
                    rows = list(zip(found.labels, found.probabilities, found.not_predicted, strict=True))
                except Exception as error:
                    log.exception("prediction failed")
                    for _, result in batch:
                        if not result.done():
                            result.set_exception(error)
                    continue
                start = 0
                for own, result in batch:
                    if not result.done():
                        result.set_result(rows[start : start + len(own)])
                    start += len(own)

    def _next_batch(self) -> list[tuple[list[Any], "asyncio.Future[list[Any]]"]]:
        """Take waiting requests, up to `max_texts` texts. Those that are no longer awaited are dropped."""
        batch: list[tuple[list[Any], asyncio.Future[list[Any]]]] = []
        size = 0
        self._waiting = [(texts, result) for texts, result in self._waiting if not result.done()]
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self._limits.max_texts):
            batch.append(self._waiting.pop(0))
            size += len(batch[-1][0])
        if not self._waiting:
            self._arrived.clear()
        return batch


class LimitedBody:
    """Middleware that answers 413 for bodies of more than `MAX_BYTES`, without reading them to the end."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES:
                raise HTTPException(413, f"the request has more than {MAX_BYTES >> 20} MiB")
            return message

        await self._application(scope, limited, send)


def create_application(
    model: TextClassifier, name: str, limits: Limits | None = None, calibrated: bool = False
) -> FastAPI:
    """Return the application that serves a model.

    Args:
        model: The model.
        name: Name of the model, for the page.
        limits: Limits of a request.
        calibrated: Return calibrated probabilities.

    Raises:
        UserError: `calibrated` is set and the model has no calibration.
    """
    limits = limits or Limits()
    # What is wrong with the model is wrong before the first request.
    model.predict(["a text" if model.columns == 1 else ["a text"] * model.columns], calibrated)
    batcher = Batcher(lambda texts: model.predict(texts, calibrated), limits)
    page = PAGE.read_text(encoding="utf-8").replace("{{ columns }}", str(model.columns))
    page = page.replace("{{ name }}", html.escape(name))

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    application = FastAPI(title=f"Counterpoise: {name}", lifespan=lifespan, docs_url=None, redoc_url=None)
    application.add_middleware(LimitedBody)
    application.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    application.add_exception_handler(RequestValidationError, _invalid_request)  # type: ignore[arg-type]
    application.add_exception_handler(Exception, _internal_error)

    @application.post("/predict")
    async def predict(body: Texts) -> JSONResponse:
        texts: list[Any] = body.texts if body.texts is not None else [body.text]
        if len(texts) > limits.max_texts:
            raise HTTPException(413, f"{len(texts)} texts: a request may have {limits.max_texts}")
        if wrong := [row for row, text in enumerate(texts) if not model.accepts(text)]:
            expected = "a text" if model.columns == 1 else f"a list of {model.columns} texts, one for each column"
            raise HTTPException(422, f"texts[{wrong[0]}] is not {expected}")
        sizes = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
        if long := [row for row, size in enumerate(sizes) if size > limits.max_characters]:
            raise HTTPException(413, f"texts[{long[0]}] has more than {limits.max_characters:,} characters")
        rows = await batcher.submit(texts) if texts else []
        return JSONResponse({"predictions": [_content(model, row, body.top) for row in rows]})

    @application.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "classes": len(model.classes), "multi_label": model.multi_label}

    @application.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def try_texts() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    return application


def _content(model: TextClassifier, row: tuple[Any, np.ndarray, str | None], top: int) -> dict[str, Any]:
    """Return the JSON of one prediction; `top` holds the most probable classes, the first of equal ones first."""
    label, probabilities, reason = row
    order = np.argsort(-probabilities, kind="stable")[: 0 if reason else top]
    return {
        "labels" if model.multi_label else "label": label,
        "top": [{"label": model.classes[c], "probability": float(probabilities[c])} for c in order],
        "not_predicted": reason,
    }


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    if "json" not in request.headers.get("Content-Type", ""):
        return JSONResponse({"error": "the body must be JSON, with Content-Type: application/json"}, 415)
    first: Any = error.errors()[0]
    # Names after the first one are pydantic's, of the alternatives of a type.
    places = [part for number, part in enumerate(first["loc"][1:]) if number == 0 or isinstance(part, int)]
    where = "".join(f"[{part}]" if isinstance(part, int) else part for part in places)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        where, message = "", f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
    elif first["type"] == "extra_forbidden":
        message = f"no such key; known are {', '.join(Texts.model_fields)}"
    return JSONResponse({"error": f"{where}: {message}" if where else message}, 422)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error"}, 500)
