"""GPUs are taken by one job at a time, also by jobs of several sweeps."""

import pytest

from counterpoise.errors import UserError
from counterpoise.sweep.gpus import Gpus


def test_a_gpu_is_given_to_one_job_at_a_time(tmp_path):
    one, other = Gpus(["0", "GPU-5a/b"], tmp_path), Gpus(["GPU-5a/b", "1", "0"], tmp_path)
    assert one.take() == "0"
    assert [other.take(), other.take(), other.take()] == ["GPU-5a/b", "1", None]
    assert one.take() is None
    other.give_back("GPU-5a/b")
    other.give_back(None)
    assert one.take() == "GPU-5a/b"
    assert other.take() is None
    one.give_back("0")
    assert other.take() == "0"


def test_without_a_gpu_the_setting_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="one_gpu_each=true: this machine has no visible GPU"):
        Gpus(folder=tmp_path)
