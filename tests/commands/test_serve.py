"""`python -m counterpoise.serve`: predictions over HTTP."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

from commandline import call, environment
from counterpoise.commands import serve
from counterpoise.commands.text_classifier import Predictions, TextClassifier
from counterpoise.metrics.adjustment import Adjustment
from counting import counting_model

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from starlette.testclient import TestClient

from counterpoise.commands import web_application
from counterpoise.commands.web_application import Limits, create_application

CLASSES = ["<b>A</b>", "B", "C"]


class SlowModel(TextClassifier):
    """A model that takes a moment, and records the sizes of its batches."""

    def __init__(self, seconds: float) -> None:
        super().__init__(counting_model(CLASSES))
        self.seconds, self.batches = 0.0, []
        self.predict(["a"])
        self.seconds = seconds

    def predict(self, texts: list[str], calibrated: bool = False) -> Predictions:
        self.batches.append(len(texts))
        time.sleep(self.seconds)
        return super().predict(texts, calibrated)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_application(TextClassifier(counting_model(CLASSES)), "<model>", Limits(3, 50, 5))) as client:
        yield client


def test_one_text_and_many(client):
    one = client.post("/predict", json={"text": "a a b", "top": 2})
    assert one.status_code == 200
    (found,) = one.json()["predictions"]
    assert found["label"] == CLASSES[0]
    assert [each["label"] for each in found["top"]] == CLASSES[:2]
    assert found["top"][0]["probability"] == pytest.approx(np.exp(2) / np.exp([2, 1, 0]).sum())
    many = client.post("/predict", json={"texts": ["b", "", "c"]}).json()["predictions"]
    assert [each["label"] for each in many] == ["B", None, "C"]
    assert [each["not_predicted"] for each in many] == [None, "blank text", None]
    assert many[1]["top"] == []
    assert client.post("/predict", json={"texts": []}).json() == {"predictions": []}


def test_multi_label_models_return_lists():
    with TestClient(create_application(TextClassifier(counting_model(CLASSES, [0.6] * 3)), "model")) as client:
        found = client.post("/predict", json={"texts": ["b c c", "unheard of a"]}).json()["predictions"]
    assert [each["labels"] for each in found] == [["C", "B"], [CLASSES[0]]]


def test_calibrated_probabilities():
    model = TextClassifier(counting_model(CLASSES), Adjustment(np.zeros(3), 0.5))
    with TestClient(create_application(model, "model", calibrated=True)) as client:
        found = client.post("/predict", json={"text": "a"}).json()["predictions"][0]
    assert found["top"][0]["probability"] == pytest.approx(np.exp(2) / (np.exp(2) + 2))


def test_health(client):
    content = client.get("/health").json()
    assert content == {"status": "ok", "model": "<model>", "classes": 3, "multi_label": False}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{}", 422, 'give either "text" or "texts"'),
        ('{"text": "a", "texts": ["a"]}', 422, 'give either "text" or "texts"'),
        ('{"text": 1}', 422, "text: Input should be"),
        ('{"texts": ["a", 1]}', 422, "texts[1]: Input should be"),
        ('{"texts": ["a", "\\ud800"]}', 422, "texts[1]: the text is not valid Unicode"),
        ('{"text": "a", "top": 0}', 422, "top"),
        ('{"text": "a", "colour": "blue"}', 422, "colour"),
        ('{"text": "a", "my text[0]": "a"}', 422, "my text[0]: no such key"),
        ('{"text": "\\ud800"}', 422, "text: the text is not valid Unicode"),
        ('{"text": ', 422, "the body is not JSON"),
        ('{"texts": ["a", "a", "a", "a"]}', 413, "4 texts"),
        (json.dumps({"texts": ["a", "b" * 51]}), 413, "texts[1] has more than 50 characters"),
    ],
)
def test_invalid_requests_are_refused_in_one_line_of_json(client, body, status, message):
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_that_is_not_declared_as_json_says_what_to_send(client):
    answer = client.post("/predict", content='{"text": "a"}')
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]


def test_large_bodies_are_refused_before_they_are_read(client, monkeypatch):
    monkeypatch.setattr(web_application, "MAX_BYTES", 100)
    answer = client.post("/predict", json={"text": "a" * 200})
    assert answer.status_code == 413
    assert "MiB" in answer.json()["error"]


def test_unknown_paths_and_methods_are_json(client):
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").json() == {"error": "Method Not Allowed"}


def test_an_error_of_the_model_is_an_internal_error_and_the_server_goes_on(monkeypatch):
    model = TextClassifier(counting_model(CLASSES))
    with TestClient(create_application(model, "model"), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(model._predictor, "finish", lambda prepared, done: 1 / 0)
            answer = client.post("/predict", json={"text": "a"})
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert client.post("/predict", json={"text": "a"}).status_code == 200


def in_parallel(client: TestClient, requests: int) -> list[int]:
    """Send requests of one text at the same time and return their status codes."""
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(client.post("/predict", json={"text": "a"}).status_code))
        for _ in range(requests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def test_requests_that_wait_are_predicted_together():
    model = SlowModel(0.2)
    with TestClient(create_application(model, "model")) as client:
        model.batches.clear()
        assert in_parallel(client, 8) == [200] * 8
    assert sum(model.batches) == 8
    assert len(model.batches) < 8
    assert max(model.batches) > 1


def test_requests_that_take_too_long_or_are_too_many_are_refused(monkeypatch):
    model = SlowModel(0.5)
    with TestClient(create_application(model, "model", Limits(timeout=0.1))) as client:
        answer = client.post("/predict", json={"text": "a"})
        assert answer.status_code == 503
        assert "more than 0.1 s" in answer.json()["error"]
    monkeypatch.setattr(web_application, "QUEUED_BATCHES", 1)
    with TestClient(create_application(SlowModel(0.3), "model", Limits(max_texts=1))) as client:
        codes = in_parallel(client, 6)
    assert set(codes) == {200, 503}


def test_the_page_shows_names_as_text():
    with TestClient(create_application(TextClassifier(counting_model(CLASSES)), "<script>name")) as client:
        answer = client.get("/")
    assert "&lt;script&gt;name" in answer.text
    assert "<script>name" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(TextClassifier, "load", lambda *given, **options: TextClassifier(counting_model(CLASSES)))
    with serve._listen("127.0.0.1", 0) as taken:
        assert call(serve.main, monkeypatch, "model", "--port", taken.getsockname()[1]) == 2
    error = capsys.readouterr().err
    assert "cannot listen on 127.0.0.1" in error
    assert error.count("\n") == 1


def test_responses_do_not_wait_for_an_acknowledgement():
    with serve._listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_missing_library_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert call(serve.main, monkeypatch, "model") == 2
    assert capsys.readouterr().err == "error: serving needs uvicorn: pip install 'counterpoise[serve]'\n"


SERVER = """
import sys
from counting import counting_model
from counterpoise.commands import serve
from counterpoise.commands.text_classifier import TextClassifier
TextClassifier.load = lambda *given, **options: TextClassifier(counting_model(["<b>A</b>", "B", "C"]))
sys.argv = ["counterpoise.serve", "model", "--port", "0"]
serve.main()
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Address of a server in another process."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split(" at ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(30)


def test_the_server_and_its_page_work(address, browser):
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert json.load(answer)["status"] == "ok"
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.fill("textarea", "a a b")
    page.click("button")
    page.wait_for_selector("#classes tr")
    assert page.inner_text("#label") == f"Prediction: {CLASSES[0]}"
    assert page.locator("#classes tr").first.locator("td").first.inner_text() == CLASSES[0]
    page.fill("textarea", "  ")
    page.click("button")
    page.get_by_text("No prediction").wait_for()
    assert page.locator("#classes tr").count() == 0
    assert not problems
