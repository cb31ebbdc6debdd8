"""`trainer.precision=auto`: bf16 where it is measured to be faster, the same for all jobs and for a resumed run."""

import pytest
import torch
from omegaconf import OmegaConf

from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.training import precision
from counterpoise.training.precision import bf16_ratio, choose_precision

UNITS = {"architecture": "x86_64", "avx512_bf16": True}


def chosen(size: int = 384, ckpt: str | None = None, **trainer: object) -> str:
    """Return the precision of a run with an encoder of this size."""
    settings = {"accelerator": "cpu", "devices": 1, "precision": "auto"} | trainer
    return choose_precision(OmegaConf.create({"trainer": settings, "ckpt": ckpt}), PrecomputedEmbeddings(size))


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """A CPU with bfloat16 units, on which steps take 0.6 of their time in fp32; the sizes that were measured."""
    sizes: list[int] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: UNITS)
    monkeypatch.setattr(precision, "_measure", lambda size: sizes.append(size) or 0.6)
    return sizes


@pytest.mark.parametrize(
    ("ratio", "selects"), [(0.5, "bf16-mixed"), (0.9, "bf16-mixed"), (0.91, "32-true"), (8.0, "32-true")]
)
def test_bf16_is_selected_if_it_is_clearly_faster_and_the_ratio_is_printed(
    ratio, selects, measured, monkeypatch, capsys
):
    monkeypatch.setattr(precision, "_measure", lambda size: ratio)
    assert chosen() == selects
    [line] = capsys.readouterr().out.splitlines()
    assert selects in line
    assert f"{ratio:.2f}" in line


def test_all_runs_with_the_same_size_and_threads_share_one_measurement(measured, monkeypatch):
    assert [chosen(), chosen(accelerator="auto"), chosen(devices="auto"), chosen(768)] == ["bf16-mixed"] * 4
    assert measured == [384, 768]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    chosen()
    monkeypatch.setattr(torch, "__version__", "99")
    chosen()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: UNITS | {"cpu_name": "other"})
    chosen()
    assert measured == [384, 768, 384, 384, 384]


@pytest.mark.parametrize(
    "setting",
    [{"size": 64}, {"devices": 2}, {"num_nodes": 2}, {"precision": "32-true"}],
    ids=str,
)
def test_small_encoders_several_processes_and_a_given_precision_need_no_measurement(setting, measured):
    assert chosen(**setting) == "32-true"
    assert measured == []


def test_a_cpu_without_bfloat16_units_stays_in_fp32(measured, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_f": True})
    assert chosen() == "32-true"
    assert measured == []


@pytest.mark.parametrize(
    ("saved", "selects"),
    [("bf16-mixed", "bf16-mixed"), ("32-true", "32-true"), (None, "32-true")],
    ids=["bf16", "fp32", "checkpoint without a precision"],
)
def test_a_resumed_run_has_the_precision_of_its_checkpoint(saved, selects, measured, tmp_path):
    torch.save({"exact_resume": {"precision": saved} if saved else {}}, tmp_path / "last.ckpt")
    assert chosen(ckpt=str(tmp_path / "last.ckpt")) == selects
    assert measured == []


def test_the_measurement_leaves_the_random_state(monkeypatch):
    monkeypatch.setattr(precision, "PROBE_SECONDS", 0.0)
    state = torch.get_rng_state()
    assert bf16_ratio(128) > 0
    assert torch.equal(torch.get_rng_state(), state)
