"""The folders of jobs: a job that was tried before keeps its folder, a new one never gets that of another job."""

import itertools
from pathlib import Path

import pytest

import finished
from counterpoise.analysis.job_folders import Job, differing_overrides, find_folders, has_finished, jobs_of
from counterpoise.errors import UserError


def sweep_of(folder: Path, *settings: list[str]) -> None:
    """Write a finished sweep of these jobs."""
    for number, overrides in enumerate(settings):
        finished.run(folder / str(number), *overrides)


def product(*values: list[str]) -> list[list[str]]:
    return [list(each) for each in itertools.product(*values)]


STRATEGIES = ["strategy=plain", "strategy=weighted"]
SEEDS = ["seed=0", "seed=1"]


@pytest.mark.parametrize(
    "jobs",
    [
        product(STRATEGIES, SEEDS),
        product(STRATEGIES, [*SEEDS, "seed=2"]),
        product(["strategy=ldam", *STRATEGIES], SEEDS),
        product(SEEDS, STRATEGIES),
        product(["strategy=ldam"], SEEDS),
        product(STRATEGIES, SEEDS, ["+note='a, b'"]),
        product(STRATEGIES, SEEDS) * 2,
    ],
)
@pytest.mark.parametrize("first", [0, 3])
def test_a_changed_sweep_keeps_folders_and_gives_new_jobs_new_ones(tmp_path, jobs, first):
    before = product(STRATEGIES, SEEDS)
    sweep_of(tmp_path, *before)
    found = find_folders(tmp_path, jobs, first)
    assert [job.overrides for job in found] == [tuple(each) for each in jobs]
    assert len({job.number for job in found}) == len(jobs)
    for job in found:
        if job.folder is None:
            assert not (tmp_path / str(job.number)).exists()
        else:
            assert sorted(before[job.number]) == sorted(job.overrides)
            assert job.folder == tmp_path / str(job.number)
            assert has_finished(job.folder, job.overrides)
    known = [job for job in found if job.folder]
    assert len(known) == sum(sorted(each) in map(sorted, jobs) for each in before)


def test_the_jobs_of_a_new_sweep_have_consecutive_numbers(tmp_path):
    found = find_folders(tmp_path / "missing", product(STRATEGIES, SEEDS), 2)
    assert [(job.number, job.folder) for job in found] == [(2, None), (3, None), (4, None), (5, None)]


def test_results_of_another_job_are_not_overwritten(tmp_path):
    sweep_of(tmp_path, ["strategy=plain"])
    with pytest.raises(UserError, match=r"0 holds the results of another job \(strategy=plain\)"):
        has_finished(tmp_path / "0", ["strategy=weighted"])


def test_an_unfinished_job_has_not_finished(tmp_path):
    finished.run(tmp_path / "0", "strategy=plain", state="running")
    assert not has_finished(tmp_path / "0", ["strategy=plain"])
    finished.run(tmp_path / "1", "strategy=plain", state="failed")
    assert not has_finished(tmp_path / "1", ["strategy=plain"])


def test_lines_show_the_overrides_in_which_jobs_differ():
    jobs = [Job(i, tuple(each)) for i, each in enumerate(product(["data=a"], STRATEGIES, SEEDS))]
    shared, texts = differing_overrides(jobs)
    assert shared == ["data=a"]
    assert texts[1] == "strategy=plain seed=1"
    assert differing_overrides(jobs[:1]) == ([], ["data=a strategy=plain seed=0"])
    assert differing_overrides([Job(0, ()), Job(1, ("seed=1",))]) == ([], ["default", "seed=1"])


def test_ensembles_are_jobs_of_a_folder_without_other_jobs(tmp_path):
    for name in ("0", "1"):
        (finished.run(tmp_path / name) / "ensemble.json").write_text("{}")
    assert sorted(folder.name for folder in jobs_of(tmp_path)) == ["0", "1"]
    finished.run(tmp_path / "2")
    assert [folder.name for folder in jobs_of(tmp_path)] == ["2"]
