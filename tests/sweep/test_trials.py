"""The trials of a search: kept in the sweep's folder, continued after a kill, within the over-correction rule."""

import json
import shutil

import pytest

pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from counterpoise.analysis.search_results import read_search
from counterpoise.errors import UserError
from counterpoise.sweep.search_space import SearchSpace
from counterpoise.sweep.trial_sampler import Draws
from counterpoise.sweep.trial_storage import DATABASE, open_storage
from counterpoise.sweep.trials import Trials


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A folder with an empty database, because creating the tables takes most of the time of a small search."""
    folder = tmp_path_factory.mktemp("empty")
    open_storage(folder)
    return folder


@pytest.fixture
def folder(empty, tmp_path):
    shutil.copy(empty / DATABASE, tmp_path)
    return tmp_path


SPACE = SearchSpace({"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}, ["x=1"])


def trials(folder, number=6, space=SPACE, first=None, limit=1.0, direction="maximize", seed=0):
    limited = [key for key in "ab" if key in space.distributions]
    return Trials(folder, space, number, direction, first, Draws(limited, limit, startup_trials=3, seed=seed))


def write_status(folder, job, state="finished", **status):
    run = folder / str(job.number)
    run.mkdir(exist_ok=True)
    (run / "status.json").write_text(json.dumps({"state": state, "overrides": list(job.overrides), **status}))


def score(job):
    values = dict(each.split("=") for each in job.overrides)
    return 1 - (float(values["a"]) - 0.3) ** 2 - (float(values["b"]) - 0.4) ** 2


def do(folder, queue, number=None):
    """Finish the next trials, all by default, and return their jobs."""
    done = []
    while queue and len(done) != number:
        done.append(queue.popleft())
        write_status(folder, done[-1], value=score(done[-1]))
        queue.tell(done[-1])
    return done


def test_drawn_numbers_are_those_of_the_range(folder):
    space = SearchSpace({"a": FloatDistribution(0.1, 0.7, step=0.2), "n": IntDistribution(8, 32, step=8)}, [])
    queue = Trials(folder, space, 12, "maximize", None, Draws([], 1.0, startup_trials=3, seed=0))
    drawn = set()
    while queue:
        job = queue.popleft()
        drawn |= set(job.overrides)
        write_status(folder, job, value=float(job.number))
        queue.tell(job)
    assert {"a=0.1", "n=8"} < drawn <= {f"a={a}" for a in (0.1, 0.3, 0.5, 0.7)} | {f"n={n}" for n in (8, 16, 24, 32)}


def test_a_search_that_is_continued_equals_an_uninterrupted_one(empty, tmp_path):
    one, other = (shutil.copytree(empty, tmp_path / name) for name in ("one", "other"))
    whole = do(one, trials(one, 9))
    parts = []
    for number in (2, 5, 9):
        parts += do(other, trials(other, number))
    assert [job.overrides for job in parts] == [job.overrides for job in whole]
    assert [job.number for job in parts] == list(range(9))
    assert not trials(other, 9)


def test_a_trial_that_a_kill_interrupted_is_done_again(folder):
    queue = trials(folder)
    finished, unfinished, ended = (queue.popleft() for _ in range(3))
    write_status(folder, finished, value=0.5)
    queue.tell(finished)
    write_status(folder, unfinished, "running")
    write_status(folder, ended, value=0.25)  # killed before the sweep recorded it
    again = trials(folder)
    assert len(again) == 4
    job = again.popleft()
    assert (job.number, job.overrides) == (unfinished.number, unfinished.overrides)
    assert again.popleft().number == 3
    assert [trial.value for trial in again.study.trials[:3]] == [0.5, None, 0.25]


def test_a_trial_whose_values_a_kill_left_incomplete_has_failed(folder):
    queue = trials(folder)
    queue.study.ask({"a": SPACE.distributions["a"]})
    again = trials(folder)
    assert again.popleft().number == 1
    assert [trial.state for trial in again.results("val/macro_f1").trials] == ["failed", "running"]


def test_ends_of_jobs_become_states_of_trials(folder):
    queue = trials(folder)
    ends = [{"value": 0.5}, {"value": float("nan")}, {"state": "failed"}, {"state": "pruned"}, None]
    for status in ends:
        job = queue.popleft()
        if status is not None:
            write_status(folder, job, **status)
        queue.tell(job)
    queue.results("val/macro_f1").save(folder)
    search = read_search(folder)
    assert [trial.state for trial in search.trials] == ["finished", "failed", "failed", "pruned", "failed"]
    assert [trial.number for trial in search.finished] == [0]
    assert search.importances == {}


def test_the_sum_of_limited_values_is_respected_and_the_best_is_found(folder):
    queue = trials(folder, 25)
    jobs = do(folder, queue)
    values = [[float(each.split("=")[1]) for each in job.overrides[1:]] for job in jobs]
    assert max(map(sum, values)) <= 1 + 1e-9
    assert max(map(score, jobs)) > 0.95
    found = queue.results("val/macro_f1")
    assert found.finished[0].value == max(map(score, jobs))
    assert sum(found.importances.values()) == pytest.approx(1)


def test_a_limit_that_leaves_nothing_is_refused(folder):
    with pytest.raises(UserError, match="lower bounds"):
        trials(folder, limit=-0.5).popleft()


def test_the_first_trial_has_the_configured_values(folder):
    queue = trials(folder, first={"a": 0.125, "b": 0.25})
    assert queue.popleft().overrides == ("x=1", "a=0.125", "b=0.25")
    assert queue.results("m").first_is_configured


@pytest.mark.parametrize(
    "other",
    [
        {"space": SearchSpace(SPACE.distributions, ["x=2"])},
        {"space": SearchSpace({"a": FloatDistribution(0, 2)}, ["x=1"])},
        {"space": SearchSpace({**SPACE.distributions, "c": CategoricalDistribution(["u", "v"])}, ["x=1"])},
        {"direction": "minimize"},
        {"limit": 0.5},
        {"seed": 1},
    ],
)
def test_a_search_of_other_settings_is_not_continued(folder, other):
    do(folder, trials(folder), 1)
    with pytest.raises(UserError, match=r"other settings .*hydra\.sweep\.dir"):
        trials(folder, **other)


def test_a_folder_with_other_jobs_is_refused(folder):
    queue = trials(folder)
    (folder / "0").mkdir()
    (folder / "0" / "status.json").write_text(json.dumps({"state": "finished", "overrides": ["y=1"]}))
    with pytest.raises(UserError, match="another sweep"):
        queue.popleft()


def test_a_damaged_database_is_one_line(folder):
    (folder / DATABASE).write_text("no database " * 100)
    with pytest.raises(UserError, match="damaged"):
        trials(folder)


def test_parallel_trials_differ(folder):
    queue = trials(folder, 9)
    do(folder, queue, 5)
    running = [queue.popleft().overrides for _ in range(4)]
    assert len(set(running)) == 4
