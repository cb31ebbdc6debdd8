import dataclasses
import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import finished
from counterpoise.analysis.comparison import compare_runs
from counterpoise.analysis.comparison_summary import summarise
from counterpoise.analysis.comparison_tables import measure
from counterpoise.analysis.group_decisions import GroupDecisions, comparison_metrics
from counterpoise.analysis.runs import load_runs
from counterpoise.analysis.significance import adjusted, significant
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds

METRICS = ["macro_f1", "balanced_accuracy", "accuracy"] + [
    f"{bucket}_{kind}" for kind in ("recall", "f1") for bucket in ("head", "medium", "tail")
]


@pytest.fixture
def sweep(tmp_path):
    return finished.sweep(tmp_path / "sweep")


def by_group(table: pd.DataFrame, group: str) -> pd.DataFrame:
    return table[table["group"] == group].reset_index(drop=True)


def test_groups_are_ranked_and_scores_equal_the_per_class_tables(sweep):
    comparison = compare_runs([sweep])
    assert [group.name for group in comparison.groups] == ["combined", "plain"]
    assert (comparison.task, comparison.metric, comparison.texts) == ("single_label", "macro_f1", 100)
    assert (comparison.metrics, comparison.labels) == (METRICS, finished.LABELS)
    assert comparison.test_counts.tolist() == [40, 30, 20, 10, 0]
    assert comparison.counts.tolist() == finished.COUNTS.tolist()
    for group, jobs in zip(comparison.groups, ("23", "01"), strict=True):
        assert [folder.name for folder in group.folders] == list(jobs)
        assert group.seeds == [0, 1]
        tables = [pd.read_csv(sweep / job / "per_class.csv") for job in jobs]
        np.testing.assert_allclose(group.scores["macro_f1"], [table["f1"].mean() for table in tables])
        np.testing.assert_allclose(group.scores["tail_recall"], [table["recall"][3] for table in tables])
        np.testing.assert_allclose(group.scores["head_f1"], [table["f1"][:2].mean() for table in tables])
        for metric in METRICS:
            low, high = group.intervals[metric]
            assert low <= group.scores[metric].mean() <= high
    combined = comparison.groups[0]
    assert (combined.seconds, combined.epochs, combined.steps, combined.probe) == (160, 2, 100, False)


def test_pairs_and_effects_equal_the_estimates(sweep):
    third = [finished.run(sweep / str(n), "experiment=r8", "strategy=z", f"seed={n}", wrong={2: n}) for n in (5, 6, 7)]
    comparison = compare_runs([sweep, *third])
    names = ["combined", "z", "plain"]
    assert [group.name for group in comparison.groups] == names
    runs, _ = load_runs([sweep])
    decisions = GroupDecisions(runs[0].truth, [[run.decided for run in runs if run.group == name] for name in names])
    metrics = comparison_metrics("single_label", comparison.test_counts, finished.COUNTS, Bounds())
    measured = measure(names, decisions, metrics)

    numbers = [(0, 1), (0, 2), (1, 2)]
    assert list(zip(comparison.pairs["a"], comparison.pairs["b"], strict=True)) == [
        (names[a], names[b]) for a, b in numbers
    ]
    assert set(comparison.pairs["metric"]) == {"macro_f1"}
    assert comparison.pairs["methods"].all()
    estimates = [measured.difference(a, b, "macro_f1") for a, b in numbers]
    # Of three pairs, two are with the reference: a family of comparisons of their own.
    expected = pd.concat([adjusted(estimates[:1]), adjusted(estimates[1:])], ignore_index=True)
    pd.testing.assert_frame_equal(comparison.pairs[list(expected.columns)], expected)

    assert set(comparison.effects["group"]) == {"combined", "z"}
    others = [metric for metric in METRICS if metric != "macro_f1"]
    for family in (["macro_f1"], others):
        rows = comparison.effects[comparison.effects["metric"].isin(family)].reset_index(drop=True)
        expected = adjusted([measured.difference(group, 2, metric) for group in (0, 1) for metric in family])
        expected[["low", "high"]] = expected[["low", "high"]].clip(-1, 1)
        pd.testing.assert_frame_equal(rows[list(expected.columns)], expected)


def test_a_reference_that_was_chosen_by_its_score_costs_all_pairs(tmp_path):
    for n in range(4):
        for seed in range(3):
            wrong = {0: 3 * n + seed % 2, 1: seed}
            finished.run(tmp_path / f"{n}{seed}", f"strategy=s{n}", f"seed={seed}", wrong=wrong)
    chosen, given = compare_runs([tmp_path]), compare_runs([tmp_path], reference="s0")
    assert chosen.reference == given.reference == "s0"
    first, second = (
        by_group(each.effects[each.effects["metric"] == "macro_f1"], "s3").iloc[0] for each in (chosen, given)
    )
    assert first["p"] == second["p"]
    # The largest difference is the first step of Holm's procedure: of six pairs, or of three with the reference.
    assert first["p_adjusted"] == pytest.approx(2 * second["p_adjusted"])
    assert (first["high"] - first["low"]) > (second["high"] - second["low"])
    assert chosen.detectable[3] > given.detectable[3]


def test_runs_that_share_their_first_stage_are_compared_as_pairs(tmp_path):
    for seed, wrong in enumerate((2, 9, 16)):  # seeds differ much; the second stage always gains eight texts
        for name, gain in (("plain", 0), ("crt", 8)):
            strategy = {"loss": "cross_entropy", "second_stage": None if name == "plain" else {"epochs": 5}}
            config = {"seed": seed, "strategy": strategy, "optim": {"lr": 1}}
            finished.run(
                tmp_path / f"{name}{seed}",
                f"strategy={name}",
                f"seed={seed}",
                wrong={0: wrong, 3: 9 - gain},
                config=config,
            )
    paired = compare_runs([tmp_path], metric="accuracy").pairs
    for file in tmp_path.glob("crt*/config.yaml"):
        file.write_text(file.read_text().replace("lr: 1", "lr: 2"))
    unpaired = compare_runs([tmp_path], metric="accuracy").pairs
    assert significant(paired).tolist() == [True]
    assert significant(unpaired).tolist() == [False]
    np.testing.assert_allclose(paired["difference"], unpaired["difference"])


def test_a_run_that_repeats_another_counts_once(tmp_path):
    for name, wrong in (("plain", {0: 5}), ("b", {0: 2})):
        for n in range(3):
            finished.run(tmp_path / f"{name}{n}", f"strategy={name}", "seed=0", wrong=wrong)
    comparison = compare_runs([tmp_path])
    assert [len(group.seeds) for group in comparison.groups] == [1, 1]
    assert not comparison.pairs["methods"].any()
    assert any("2 of 3 runs of b repeat another run" in sentence for sentence in comparison.summary)


def test_class_scores_are_means_over_seeds_and_nan_if_unknown(sweep):
    comparison = compare_runs([sweep])
    columns = ["group", "class", "train_count", "test_count", "recall", "f1", "recall_difference", "low", "high"]
    assert list(comparison.classes.columns) == columns
    plain, combined = (by_group(comparison.classes, name) for name in ("plain", "combined"))
    assert plain["class"].tolist() == combined["class"].tolist() == finished.LABELS
    np.testing.assert_allclose(plain["recall"], [38.5 / 40, 1, 1, 0.15, np.nan])
    assert plain[["recall_difference", "low", "high"]].isna().all(axis=None)
    np.testing.assert_allclose(combined["recall_difference"], [0, -0.5 / 30, 0, 0.8, np.nan], atol=1e-12)
    assert combined["low"][3] > 0.4
    assert combined.loc[4, ["recall", "f1", "low", "high"]].isna().all()


def test_classes_with_few_test_texts_have_no_interval(tmp_path):
    truth = np.repeat([0, 1, 2, 3], [40, 30, 5, 4])
    for name in ("plain", "other"):
        finished.run(tmp_path / name, f"strategy={name}", truth=truth, wrong={3: 2, 2: 2} if name == "plain" else {})
    other = by_group(compare_runs([tmp_path]).classes, "other")
    assert other["recall_difference"][3] == 0.5
    assert other["low"].isna().tolist() == [False, False, False, True, True]


def test_buckets_are_means_over_their_classes(sweep):
    comparison = compare_runs([sweep])
    assert list(comparison.buckets.columns) == [
        *("group", "bucket", "classes", "recall", "f1", "difference", "low", "high"),
    ]
    combined, plain = (by_group(comparison.buckets, name) for name in ("combined", "plain"))
    assert combined["bucket"].tolist() == ["head", "medium", "tail"]
    assert combined["classes"].tolist() == [2, 1, 1]
    means = comparison.groups[0].scores.mean()
    np.testing.assert_allclose(combined["recall"], means[["head_recall", "medium_recall", "tail_recall"]])
    np.testing.assert_allclose(combined["f1"], means[["head_f1", "medium_f1", "tail_f1"]])
    np.testing.assert_allclose(combined["difference"], combined["recall"] - plain["recall"])
    assert plain[["difference", "low", "high"]].isna().all(axis=None)


def test_reference_defaults_to_plain_or_the_best_group(sweep):
    assert compare_runs([sweep]).reference == "plain"
    assert compare_runs([sweep], reference="combined").reference == "combined"
    assert compare_runs([f"a={sweep / '0'}", f"b={sweep / '2'}"]).reference == "b"


def test_groups_are_ranked_by_the_given_metric(sweep):
    comparison = compare_runs([sweep], metric="head_recall")
    means = [group.scores["head_recall"].mean() for group in comparison.groups]
    assert [group.name for group in comparison.groups] == ["plain", "combined"]
    assert all(one >= other for one, other in pairwise(means))
    assert set(comparison.pairs["metric"]) == {"head_recall"}
    assert compare_runs([sweep], metric="macro_recall").metric == "balanced_accuracy"


def test_multi_label_runs_are_compared(tmp_path):
    for errors, name in ((0.05, "good"), (0.3, "bad")):
        for seed in range(2):
            path = tmp_path / f"{name}{seed}"
            finished.multi_label_run(path, f"strategy={name}", f"seed={seed}", seed=seed, errors=errors)
    comparison = compare_runs([tmp_path])
    assert comparison.task == "multi_label"
    assert comparison.metrics[:4] == ["macro_f1", "macro_recall", "micro_f1", "micro_recall"]
    assert [group.name for group in comparison.groups] == ["good", "bad"]
    assert significant(comparison.pairs).tolist() == [True]
    assert "bad decreases macro F1 by 0." in comparison.summary[1]
    assert "micro F1 by 0." in comparison.summary[1]


def test_summary_states_the_best_group_its_gains_and_the_run_times(sweep):
    comparison = compare_runs([sweep])
    ranking, effect, _, duration, not_included = comparison.summary
    mean, (low, high) = comparison.groups[0].scores["macro_f1"].mean(), comparison.groups[0].intervals["macro_f1"]
    assert f"combined ({mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, 2 seeds)" in ranking
    assert ranking.endswith("Significantly worse: plain.")
    assert "combined increases macro F1 by 0." in effect
    assert "tail recall by 0.800 [" in effect
    assert effect.endswith("does not significantly change head recall.")
    assert "combined 160 seconds (1.6 times), 100 steps" in duration
    assert str(sweep) in not_included


def test_summary_states_which_groups_do_not_differ_significantly(tmp_path):
    for n, (name, wrong) in enumerate({"plain": {0: 3}, "b": {0: 2}, "c": {1: 2}, "d": {0: 20, 3: 6}}.items()):
        finished.run(tmp_path / str(n), f"strategy={name}", wrong=wrong)
    summary = compare_runs([tmp_path]).summary
    assert "Not significantly different from it: c, plain. Significantly worse: d." in summary[0]
    assert "d decreases macro F1 by 0." in summary[1]
    assert "accuracy by 0.230 [" in summary[1]
    assert summary[2].startswith("b and c do not differ significantly from plain in macro F1, tail recall,")
    assert "(1.0 times)" in summary[3]
    assert "one seed" in summary[4]


def test_summary_of_many_groups_describes_the_best_and_the_range_of_run_times(tmp_path):
    for n in range(9):
        name, wrong = (f"s{n}", {0: n}) if n else ("plain", {0: 30})
        finished.run(tmp_path / str(n), f"strategy={name}", wrong=wrong, seconds=10 + n)
    summary = compare_runs([tmp_path]).summary
    described = [sentence.split()[3] for sentence in summary if sentence.startswith("Compared with plain, s")]
    assert described == ["s1", "s2", "s3", "s4", "s5"]
    assert any("10 seconds (plain) to 18 seconds (s8)" in sentence for sentence in summary)


def test_summary_omits_unknown_run_times(sweep):
    status = sweep / "0" / "status.json"
    status.write_text(json.dumps({k: v for k, v in json.loads(status.read_text()).items() if k != "seconds"}))
    words = compare_runs([sweep]).summary
    assert not any("Duration" in sentence or "nan" in sentence for sentence in words)


def test_a_single_group_has_intervals_but_no_pairs(sweep):
    comparison = compare_runs([sweep / "0"])
    assert [group.name for group in comparison.groups] == ["plain"]
    assert comparison.pairs.empty
    assert comparison.effects.empty
    assert {"difference", "p_adjusted"} <= set(comparison.pairs.columns) & set(comparison.effects.columns)
    assert comparison.summary[0].startswith("macro F1 of plain: 0.")
    assert ["one seed" in sentence for sentence in comparison.summary[1:]] == [True]


def test_linear_probes_are_named_and_cannot_share_a_group_with_fine_tuned_runs(tmp_path):
    probe = finished.run(tmp_path / "probe", "strategy=plain", "probe=true", probe=True)
    other = finished.run(tmp_path / "other", "strategy=plain", wrong={0: 1})
    mixed = compare_runs([probe, other])
    assert [(group.name, group.probe) for group in mixed.groups] == [("probe=true", True), ("default", False)]
    assert any("Linear probes on a frozen encoder: probe=true." in sentence for sentence in mixed.summary)
    alone = compare_runs([probe]).summary
    assert "All runs are linear probes" in alone[-1]
    with pytest.raises(UserError, match="group a mixes linear probes"):
        compare_runs([f"a={probe}", f"a={other}"])


def test_summary_warns_about_repeated_seeds_counts_and_bounds(tmp_path):
    runs = [
        finished.run(tmp_path / "0", "a=1", "seed=0"),
        finished.run(tmp_path / "1", "a=1", "seed=0", counts=finished.COUNTS * 2, wrong={0: 1}),
        finished.run(tmp_path / "2", "a=2", "seed=0", config={"buckets": {"tail_max": 3}}),
    ]
    comparison = compare_runs(runs)
    seeds, counts, bounds = comparison.summary[-3:]
    assert "a=1 have seed 0" in seeds
    assert "different training counts" in counts
    assert "different bucket bounds" in bounds
    assert str(runs[0]) in counts
    assert str(runs[0]) in bounds
    assert comparison.bounds == Bounds()
    assert comparison.counts.tolist() == finished.COUNTS.tolist()


def test_counts_and_bounds_come_from_the_first_run(tmp_path):
    other = {"buckets": {"tail_max": 3}}
    runs = [
        finished.run(tmp_path / "0", "a=1", "seed=1"),
        finished.run(tmp_path / "1", "a=1", "seed=0", counts=finished.COUNTS * 2, config=other),
    ]
    for given, counts, bounds in (
        (runs, finished.COUNTS, Bounds()),
        (runs[::-1], finished.COUNTS * 2, Bounds(tail_max=3)),
    ):
        comparison = compare_runs(given)
        assert comparison.counts.tolist() == counts.tolist()
        assert comparison.bounds == bounds
        assert all(f"from {given[0]}." in sentence for sentence in comparison.summary[-2:])


def test_many_groups_can_differ_significantly(tmp_path):
    for n in range(36):
        finished.run(tmp_path / str(n), f"strategy=s{n}", wrong={0: n, 1: 29} if n else {})
    comparison = compare_runs([tmp_path], reference="s1")
    pairs = comparison.pairs.set_index(["a", "b"])
    assert pairs.loc[("s0", "s35"), "p_adjusted"] < 0.05
    assert pairs.loc[("s8", "s9"), "p_adjusted"] == 1
    assert "Significantly worse: " in comparison.summary[0]


def test_metrics_of_a_fork_are_compared_without_tests(sweep):
    for number, folder in enumerate(sorted(sweep.glob("[0-3]"))):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["test"]["macro_auroc"] = 0.9 + number / 100
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "config.yaml").write_text("metrics: [mytask.metrics.macro_auroc]")
    comparison = compare_runs([sweep])
    assert comparison.metrics == [*METRICS, "macro_auroc"]
    combined, plain = comparison.groups
    np.testing.assert_allclose(plain.scores["macro_auroc"], [0.9, 0.91])
    np.testing.assert_allclose(combined.scores["macro_auroc"], [0.92, 0.93])
    assert np.isnan(plain.intervals["macro_auroc"]).all()
    assert "macro_auroc" not in set(comparison.effects["metric"])
    (sweep / "3" / "config.yaml").write_text("{}")
    assert compare_runs([sweep]).metrics == METRICS


def test_summary_states_the_difference_that_can_be_found(sweep):
    comparison = compare_runs([sweep])
    found = comparison.detectable
    assert list(found) == [2, 5, 10]
    assert found[2] > found[5] > found[10] > 0
    sentence = next(sentence for sentence in comparison.summary if "80 % power" in sentence)
    assert f"at least {found[2]:.3f}; with 5 seeds, {found[5]:.3f}; with 10 seeds, {found[10]:.3f}." in sentence
    assert compare_runs([sweep / "0", sweep / "2"]).detectable == {}


@pytest.mark.parametrize(("detectable", "little"), [((0.366, 0.365, 0.365), True), ((0.1, 0.06, 0.04), False)])
def test_summary_says_when_more_seeds_help_little(detectable, little, sweep):
    comparison = compare_runs([sweep])
    known = dataclasses.replace(comparison, detectable=dict(zip((3, 5, 10), detectable, strict=True)))
    assert ("more test texts" in " ".join(summarise(known))) == little


def test_comparison_is_deterministic(sweep):
    first, again = compare_runs([sweep]), compare_runs([sweep])
    assert first.summary == again.summary
    for name in ("pairs", "effects", "classes", "buckets"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "macrof1"}, r"metric macrof1 .*'macro_f1'\?"),
        ({"metric": "map"}, "metric map "),
        ({"reference": "plian"}, r"reference plian .*'plain'\?"),
    ],
)
def test_unknown_metrics_and_groups_raise_with_a_suggestion(sweep, options, message):
    with pytest.raises(UserError, match=message):
        compare_runs([sweep], **options)
