"""An unreachable Hugging Face Hub: refused after one request with the reason, or replaced by the local cache."""

import socket

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from conftest import refused
from counterpoise.data import hub_access
from counterpoise.data.hub_access import no_access, require_model
from counterpoise.data.sources.hub import HubSource
from counterpoise.errors import UserError
from counterpoise.model.encoder import EncoderSource


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No model in the local cache, no offline mode, no earlier answer of the Hub, and little patience."""
    monkeypatch.setattr(hub_access, "TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_access._error.cache_clear()
    yield
    hub_access._error.cache_clear()


@pytest.fixture
def requests(monkeypatch) -> list[str]:
    """The addresses that are requested, by this project or by the libraries of the Hub."""
    addresses = []
    client = type(get_session())
    send = client.send

    def record(session, request, **options):
        addresses.append(str(request.url))
        return send(session, request, **options)

    monkeypatch.setattr(client, "send", record)
    return addresses


@pytest.fixture(params=["silent", "closed", "unknown"])
def unreachable(request, monkeypatch):
    """An endpoint that does not answer, one that refuses connections, or a host without an address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen(1)
        port = server.getsockname()[1]
        host = "no-such-host.invalid" if request.param == "unknown" else f"127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{host}")
        yield host


def test_an_unreachable_hub_is_asked_once_and_named(unreachable, requests):
    with pytest.raises(UserError, match="cannot be reached") as error:
        EncoderSource("bert-base-uncased").locate()
    assert unreachable in str(error.value)
    assert unreachable in str(no_access())
    assert len(requests) == 1


def test_a_dataset_of_an_unreachable_hub_is_refused_with_the_reason(hub, monkeypatch, requests):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://no-such-host.invalid")
    assert "http://no-such-host.invalid cannot be reached" in refused(HubSource("no-such-dataset"))
    assert len(requests) == 1


def test_offline_mode_asks_nobody_and_names_its_variable(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_access, "get_session", lambda: pytest.fail("a request"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1") as error:
        require_model("bert-base-uncased", "main")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["models/no-such/folder", "a b"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_name_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such folder"):
        require_model(name, "main")


def test_a_model_in_the_local_cache_is_used_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "models--some--bert"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    require_model("some/bert", "main")
