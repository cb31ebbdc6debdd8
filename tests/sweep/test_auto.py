"""Successive halving within a time budget."""

import json

import pytest

from counterpoise.errors import UserError
from counterpoise.sweep.auto import Search, read_budget, search, validation_score

SECONDS = {"a": 10, "b": 10, "c": 20, "d": 10}
SCORES = {"a": 0.5, "b": 0.8, "c": 0.7, "d": 0.6}


class Trainer:
    """Writes the files of runs whose duration and score are known, and moves a clock."""

    def __init__(self, folder, seconds=SECONDS, scores=SCORES):
        self.folder, self.seconds, self.scores = folder, seconds, scores
        self.now, self.trained = 0.0, []

    def clock(self):
        return self.now

    def __call__(self, overrides, number):
        name, seed = overrides[-2], overrides[-1]
        self.now += self.seconds[name]
        self.trained.append((name, int(seed.removeprefix("seed="))))
        run = self.folder / str(number)
        run.mkdir()
        if name in self.scores:
            (run / "status.json").write_text(json.dumps({"state": "finished"}))
            (run / "metrics.json").write_text(json.dumps({"validation": {"macro_f1": self.scores[name]}}))
        else:
            (run / "status.json").write_text(json.dumps({"state": "failed"}))
        return run


def settings(budget, names="abcd", **others):
    return Search(budget=budget, candidates=list(names), **others)


def test_the_better_half_is_trained_again_until_one_is_left(tmp_path):
    trainer = Trainer(tmp_path)
    runs = search(trainer, ["x=1"], settings(200, reserve=0, max_rounds=4), trainer.clock)
    rounds = [[name for name, seed in trainer.trained if seed == number] for number in range(4)]
    assert [sorted(each) for each in rounds] == [["a", "b", "c", "d"], ["b", "c"], ["b"], ["b"]]
    assert [int(run.name) for run in runs[:4]] == [1, 4, 6, 7]
    assert sorted(int(run.name) for run in runs) == list(range(8))


@pytest.mark.parametrize("budget", [25, 60, 100, 150, 1000])
@pytest.mark.parametrize("reserve", [0, 0.1, 0.3])
def test_no_run_ends_after_the_time_for_training(tmp_path, budget, reserve):
    trainer = Trainer(tmp_path)
    search(trainer, [], settings(budget, reserve=reserve), trainer.clock)
    assert trainer.now <= budget * (1 - reserve)


def test_a_budget_for_few_runs_trains_the_first_candidates(tmp_path):
    trainer = Trainer(tmp_path)
    search(trainer, [], settings(30, reserve=0), trainer.clock)
    assert trainer.trained == [("a", 0), ("b", 0)]


@pytest.mark.parametrize(("budget", "trained"), [(54, ["a", "d"]), (56, ["a", "d trainer.max_epochs=3", "d"])])
def test_a_candidate_of_more_epochs_is_expected_to_take_as_many_times_as_long(tmp_path, budget, trained):
    trainer = Trainer(tmp_path, seconds={"a": 10, "d": 10, "trainer.max_epochs=3": 30})
    candidates = Search(budget, ["a", "d trainer.max_epochs=3", "d"], max_rounds=1, reserve=0)
    search(trainer, [], candidates, trainer.clock)
    assert [name for name, _ in trainer.trained] == [name.split()[-1] for name in trained]


def test_only_candidates_that_were_trained_are_named_as_the_best(tmp_path, capsys):
    trainer = Trainer(tmp_path, seconds={"a": 10, "b": 100, "c": 100, "d": 100})
    search(trainer, [], settings(30, reserve=0), trainer.clock)
    shown = capsys.readouterr().out
    assert "a (0.500)" in shown
    assert "inf" not in shown


@pytest.mark.parametrize(
    ("override", "epochs"), [("x=1", 2), ("trainer.max_epochs=3", 3), ("++trainer.max_epochs=4", 4)]
)
def test_epochs_are_those_of_the_candidate_or_of_all_runs(override, epochs):
    assert settings(9, epochs=2).epochs_of([override, "strategy=plain"]) == epochs


def test_a_candidate_without_epochs_fails_alone(tmp_path):
    trainer = Trainer(tmp_path, seconds={"a": 10, "trainer.max_epochs=0": 1})
    runs = search(trainer, [], Search(99, ["trainer.max_epochs=0", "a"], 1, 0), trainer.clock)
    assert [run.name for run in runs] == ["1"]


def test_every_candidate_of_a_round_has_the_same_fold_and_seed():
    assert [settings(9, folds=2).of_round(number) for number in range(3)] == [
        ["seed=0", "loader.folds=2", "loader.fold=0"],
        ["seed=1", "loader.folds=2", "loader.fold=1"],
        ["seed=2", "loader.folds=2", "loader.fold=0"],
    ]
    assert settings(9).of_round(3) == ["seed=3"]


def test_a_candidate_that_misses_a_round_is_compared_on_the_others(tmp_path):
    trainer = Trainer(tmp_path, seconds={"a": 10, "b": 10, "c": 10, "d": 45}, scores=dict.fromkeys("abcd", 0.1))

    def of_round(overrides, number):
        run = trainer(overrides, number)
        name, seed = trainer.trained[-1]
        score = {"a": 0.5 if seed == 1 else 0.9, "d": 0.8}.get(name, 0.1)
        (run / "metrics.json").write_text(json.dumps({"validation": {"macro_f1": score}}))
        return run

    # The texts of the second round are harder, and there is no time to train d on them.
    search(of_round, [], settings(97, reserve=0), trainer.clock)
    assert [name for name, _ in trainer.trained] == ["a", "b", "c", "d", "a", "a"]


def test_a_run_that_was_trained_earlier_counts_with_its_recorded_duration(tmp_path):
    trainer = Trainer(tmp_path, seconds=dict.fromkeys("ab", 0))

    def skipped(overrides, number):
        folder = trainer(overrides, number)
        (folder / "status.json").write_text(json.dumps({"state": "finished", "seconds": 40}))
        return folder

    search(skipped, [], settings(50, "ab", reserve=0, max_rounds=1), trainer.clock)
    assert trainer.trained == [("a", 0)]


def test_failed_candidates_are_left_out(tmp_path):
    trainer = Trainer(tmp_path, scores={"d": 0.1})
    runs = search(trainer, [], settings(200, reserve=0, max_rounds=3), trainer.clock)
    assert [name for name, seed in trainer.trained if seed == 2] == ["d"]
    assert all(validation_score(run) == 0.1 for run in runs)


def test_a_search_without_a_finished_run_is_refused(tmp_path):
    trainer = Trainer(tmp_path, scores={})
    with pytest.raises(UserError, match="raise the budget"):
        search(trainer, [], settings(100), trainer.clock)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), (30, 1800), ("2", 120)]
)
def test_budgets_are_times(text, seconds):
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "30x", "-5m", "0", "0m", "30m later", None, "nan", "m30"])
def test_other_budgets_are_refused(text):
    with pytest.raises(UserError, match="budget="):
        read_budget(text)


@pytest.mark.parametrize(
    "wrong",
    [{"names": ""}, {"max_rounds": 0}, {"max_rounds": 1.5}, {"reserve": 1}, {"folds": 1}, {"reserve": float("nan")}],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(UserError, match=r"hydra\.sweeper"):
        settings(10, **wrong)
