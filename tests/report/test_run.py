import base64
import gzip
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit, logit, softmax
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

import counterpoise.balance
from browser import Opened
from counterpoise.balance import ClassIndex, Strategy
from counterpoise.metrics import multi_label as multilabel
from counterpoise.metrics import single_label as metrics
from counterpoise.model import second_stage
from counterpoise.report.html_page import factor
from counterpoise.report.run import calibration as trust
from counterpoise.report.run import classes, mistakes, strategy
from counterpoise.report.run import learning as training
from counterpoise.report.run import scores as score_panel
from counterpoise.report.run.run_report import write_run_report
from counterpoise.training.results import RunResults, one_hot
from report.runs import HOSTILE, LABELS, TEXTS, multi_label, single_label

PANELS = ["scores", "strategy", "recall", "confusion", "curves", "calibration", "errors", "learning", "data"]


def block(body: str, name: str) -> Any:
    """Returns what a data block of a panel holds."""
    packed = re.search(rf'id="{name}">([^<]*)<', body)
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


# What is computed


def test_a_strategy_that_does_nothing_is_not_drawn_as_a_mountain_of_rounding_errors() -> None:
    results = single_label()
    plain = replace(results, correction=Strategy().correction(results.labels, results.correction.index))
    drawn = re.search(r'<script type="application/json">(.*?)</script>', strategy.correction(plain).body, re.DOTALL)
    assert drawn
    low, high = json.loads(drawn[1])["layout"]["yaxis2"]["range"]
    assert 10**low <= 0.5
    assert 10**high >= 2


@pytest.mark.parametrize("results", [single_label(), multi_label()], ids=["single", "multi"])
def test_headline_scores_are_those_of_metrics_inside_their_intervals(results: RunResults) -> None:
    nothing = csr_matrix(results.truth.shape, dtype=bool)
    found = score_panel.estimates(results, nothing)
    compared = [name for name in found if name in results.metrics["test"]]
    assert {"macro_f1", "tail_recall"} <= set(compared)
    for name in compared:
        assert found[name].value == pytest.approx(results.metrics["test"][name])
        assert found[name].low <= found[name].value <= found[name].high
        assert found[name].baseline == 0


def test_the_baseline_of_one_class_is_always_the_largest() -> None:
    results = single_label()
    always = one_hot(np.zeros(TEXTS, int), len(LABELS))
    found = score_panel.estimates(results, always)
    scores = metrics.scores(metrics.confusion_matrix(results.test_targets, np.zeros(TEXTS, int), 6), results.counts)
    assert found["accuracy"].baseline == pytest.approx(scores["majority_accuracy"])
    assert found["macro_f1"].baseline == pytest.approx(scores["majority_macro_f1"])


def test_confusions_of_one_class_are_the_confusion_matrix() -> None:
    results = single_label()
    expected = metrics.confusion_matrix(results.test_targets, results.test_logits.argmax(1), 6)
    assert (mistakes.confused(results.truth, results.predicted, False).toarray() == expected).all()


def test_confusions_of_labels_count_texts_where_one_is_missed_and_another_wrongly_given() -> None:
    results = multi_label()
    truth, given = results.test_targets.toarray(), results.decided
    expected = np.zeros((6, 7), int)
    for true, got in zip(truth, given, strict=True):
        wrong = np.flatnonzero(got & ~true)
        for missed in np.flatnonzero(true & ~got):
            for instead in wrong if len(wrong) else [6]:
                expected[missed, instead] += 1
    assert expected.sum() > 20
    assert (mistakes.confused(results.truth, results.predicted, True).toarray() == expected).all()


def test_binned_counts_are_exact_at_every_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "BLOCK_SIZE", 6 * 50)
    results = multi_label()
    found = classes.binned(results.test_logits, results.truth)
    above = [np.asarray(found[name])[:, ::-1].cumsum(axis=1)[:, ::-1] for name in ("called", "true_positives")]
    for k, threshold in enumerate(classes.GRID):
        decided = expit(results.test_logits.astype(float)) > threshold
        assert (above[0][:, k + 1] == decided.sum(axis=0)).all()
        assert (above[1][:, k + 1] == (decided & results.test_targets.toarray()).sum(axis=0)).all()
    assert found["texts"] == TEXTS


@pytest.mark.parametrize("results", [single_label(), multi_label()], ids=["single", "multi"])
def test_curves_have_the_average_precision_of_scikit_learn(results: RunResults) -> None:
    content = block(classes.curves(results).body, "curves-data")
    scores = results.test_logits if results.multi_label else softmax(results.test_logits.astype(float), axis=1)
    for c, series in enumerate(content["series"]):
        truth = results.truth[:, [c]].toarray().ravel()
        if not truth.any():
            assert series is None
            continue
        recall = np.array(series["true_positives"]) / truth.sum()
        precision = np.array(series["true_positives"]) / series["called"]
        area = np.diff(recall, prepend=0) @ precision
        assert area == pytest.approx(average_precision_score(truth, scores[:, c]))


def test_equal_scores_are_one_point_of_a_curve() -> None:
    results = single_label()
    content = block(classes.curves(replace(results, test_logits=np.zeros((TEXTS, 6)))).body, "curves-data")
    assert content["series"][0]["called"] == [TEXTS]


def test_the_worst_mistakes_are_kept_and_some_of_every_class() -> None:
    roles = np.array([0] * (mistakes.WORST + 50) + [1] * 10)
    kept = mistakes._worst(roles)
    assert (kept[: mistakes.WORST] == np.arange(mistakes.WORST)).all()
    assert (roles[kept] == 1).sum() == mistakes.OF_CLASS
    assert len(mistakes._worst(np.empty(0, int))) == 0


def test_mistakes_of_one_class_are_the_wrong_texts_the_surest_first() -> None:
    results = single_label()
    listed = block(mistakes.errors(results).body, "errors-data")["errors"]
    wrong = np.flatnonzero(results.test_logits.argmax(1) != results.test_targets)
    assert {each["row"] for each in listed} == set(wrong.tolist())
    sure = softmax(results.test_logits.astype(float), axis=1).max(axis=1)
    assert [each["p"] for each in listed] == sorted(sure[wrong].round(4), reverse=True)


def test_mistakes_of_labels_are_wrongly_given_or_missed() -> None:
    results = multi_label()
    content = block(mistakes.errors(results).body, "errors-data")
    for each in content["errors"]:
        true = results.test_targets[each["row"], each["label"]]
        given = results.decided[each["row"], each["label"]]  # type: ignore[index]
        assert (each["kind"] == "given") == given
        assert true != given
    kinds = [each["kind"] for each in content["errors"]]
    assert kinds[:4] == ["given", "missed", "given", "missed"]
    assert content["texts"].keys() == {str(each["row"]) for each in content["errors"]}


def distances(results: RunResults, kind: str) -> list[float]:
    """Returns how far beyond their thresholds the mistakes of a kind are, in their order."""
    found = [each for each in block(mistakes.errors(results).body, "errors-data")["errors"] if each["kind"] == kind]
    assert results.thresholds is not None
    beyond = [
        results.test_logits[each["row"], each["label"]] - logit(results.thresholds[each["label"]]) for each in found
    ]
    return [value if kind == "given" else -value for value in beyond]


def test_the_worst_label_is_the_furthest_on_the_wrong_side_of_its_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "WORST", 10_000)
    results = multi_label()
    assert results.decided is not None
    assert results.thresholds is not None
    # As at_least_one gives them: some labels far below their thresholds.
    forced = replace(results, decided=results.decided | (results.test_logits < -1))
    for kind in ("given", "missed"):
        for each in (results, forced):
            found = distances(each, kind)
            assert found == sorted(found, reverse=True)
    assert min(distances(forced, "given")) < 0 < max(distances(forced, "given"))


@pytest.fixture(scope="module")
def most_probable() -> RunResults:
    """A run that gives each text its two most probable labels."""
    results = multi_label()
    ranks = np.argsort(np.argsort(-results.test_logits, axis=1), axis=1)
    return replace(results, decided=ranks < 2, thresholds=np.full(6, 0.5), config={"decision": {"top_k": 2}})


def test_where_the_most_probable_labels_are_given_nothing_is_said_of_thresholds(most_probable: RunResults) -> None:
    panel = mistakes.errors(most_probable)
    assert panel.note.startswith("Each text got its 2 most probable labels.")
    listed = block(panel.body, "errors-data")["errors"]
    assert not any("threshold" in each for each in listed)
    given, missed = ([each["p"] for each in listed if each["kind"] == kind] for kind in ("given", "missed"))
    assert given == sorted(given, reverse=True)
    assert missed == sorted(missed)
    panel = classes.thresholds(most_probable)
    assert panel is not None
    assert panel.note.endswith("The run itself used none: each text got its 2 most probable labels.")
    assert block(panel.body, "thresholds-data")["tuned"] is None
    assert "tuned-plot" not in panel.body
    assert "thresholds of the run" not in panel.body


def options(body: str, role: str) -> dict[str, int]:
    """Returns the classes that the page offers to filter by, with their numbers of mistakes."""
    select = re.search(rf'data-role="{role}">(.*?)</select>', body, re.DOTALL)
    assert select
    found = re.findall(r">(.*) \((\d+)\)</option>", select[1])
    return {html.unescape(name): int(count) for name, count in found}


def test_filters_count_all_mistakes_and_the_note_says_how_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "WORST", 5)
    results = single_label()
    predicted, truth = results.test_logits.argmax(1), np.asarray(results.test_targets)
    wrong = predicted != truth
    panel = mistakes.errors(results)
    for role, classes_ in (("true", truth), ("predicted", predicted)):
        expected = np.bincount(classes_[wrong], minlength=6)
        assert options(panel.body, role) == {LABELS[c]: expected[c] for c in np.flatnonzero(expected)}
    content = block(panel.body, "errors-data")
    kept = len(content["errors"])
    assert 5 < kept < wrong.sum()
    assert not content["whole"]
    assert panel.note.endswith(f" Kept are {kept} of {wrong.sum()}: the first, and the first few of each class.")
    several = multi_label()
    panel = mistakes.errors(several)
    missed_or_given = (several.truth != several.predicted).toarray().sum(axis=0)
    assert options(panel.body, "label") == {LABELS[c]: missed_or_given[c] for c in np.flatnonzero(missed_or_given)}
    assert f"of {missed_or_given.sum()}: the first" in panel.note
    monkeypatch.undo()
    assert "Kept" not in mistakes.errors(results).note


def test_a_text_that_is_cut_ends_with_an_ellipsis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "CHARACTERS", 5)
    results = replace(single_label(), texts=lambda rows: ["12345" if row % 2 else "123456" for row in rows])
    texts = block(mistakes.errors(results).body, "errors-data")["texts"]
    assert {text for row, text in texts.items() if int(row) % 2} == {"12345"}
    assert {text for row, text in texts.items() if not int(row) % 2} == {"12345…"}


def test_the_verdict_names_memory_the_worst_bucket_and_a_rising_loss() -> None:
    results = single_label()
    text = training.verdict(results)
    gap = 0.99 - results.metrics["test"]["macro_f1"]
    assert f"Macro F1 is {gap:.2f} higher on training texts" in text
    assert "risen by 50% since step 100" in text
    close = results.metrics | {"train_sample": results.metrics["test"]}
    assert "close" in training.verdict(replace(results, metrics=close, history=None))


def test_the_loss_is_at_its_lowest_at_the_end_only_where_it_is_and_longer_may_help_while_f1_rises() -> None:
    results = single_label()
    assert results.history is not None

    def said(losses: list[float], scores: list[float]) -> str:
        history = results.history.loc[:4].assign(**{"val/loss": np.nan, "val/macro_f1": np.nan})  # type: ignore[union-attr]
        history.loc[range(len(losses)), "val/loss"] = losses
        history.loc[range(len(scores)), "val/macro_f1"] = scores
        words = training.verdict(replace(results, history=history))
        return words[words.index("The validation loss") :] if "The validation loss" in words else ""

    assert said([0.5, 0.4], [0.5, 0.6]) == "The validation loss was still at its lowest at the end."
    flat = "The validation loss was lowest at step 20, and hardly higher at the end."
    assert said([0.5, 0.400, 0.404], [0.5, 0.6, 0.6]) == flat
    assert said([0.5, 0.4, 0.6], [0.5, 0.6, 0.6]) == (
        "The validation loss has risen by 50% since step 20: longer would not help."
    )
    assert said([0.5, 0.4, 0.6, 0.8], [0.5, 0.6, 0.7, 0.65]) == (
        "The validation loss has risen by 100% since step 20. Macro F1 rose on, from 0.600 to 0.700."
    )
    assert said([0.5, 0.4, 0.6], []) == "The validation loss has risen by 50% since step 20."
    assert said([0.5, 0.0, 0.1], [0.5, 1, 1]) == "The validation loss has risen since step 20: longer would not help."
    assert said([0.5], [0.5]) == ""


COUNTS = np.array([120, 60, 30, 12, 4, 1])


@pytest.mark.parametrize(
    ("effective_prior", "words"),
    [
        (COUNTS, "Nothing: the largest class counts 120 times the smallest, as in the data."),
        (
            COUNTS**0.5,
            "The largest class has 120 times the examples of the smallest; in training it counts 11 times as ",
        ),
        (COUNTS**0.0, "in training each counts the same."),
        (1 / COUNTS, "in training the smallest counts 120 times as much as the largest, the wrong way round."),
        (COUNTS ** (-1.5), "the smallest counts 1,315 times as much as the largest"),
        (COUNTS * [1, 1, 1, 5, 1, 1], "in training it counts 120 times as much."),
        (np.array([1, 5, 1, 1, 1, 1]), "in training the two count the same, and others do not."),
        (np.array([1, 1, 1, 1, 1, 0]), "in training the smallest does not count."),
        (np.array([0, 1, 1, 1, 1, 1]), "in training it does not count."),
    ],
)
def test_the_strategy_is_told_by_the_largest_and_the_smallest_class(effective_prior: np.ndarray, words: str) -> None:
    assert words in strategy.effect(single_label(effective_prior=effective_prior / effective_prior.sum()))


def test_of_classes_of_one_size_the_strategy_is_told_by_all() -> None:
    results = single_label()
    index = ClassIndex.of(np.arange(60) % 6, 6)
    even = replace(results, correction=Strategy().correction(LABELS, index), effective_prior=np.full(6, 1 / 6))
    assert strategy.effect(even) == "Nothing: every class has as many examples as any other, and counts as much."
    uneven = replace(even, effective_prior=np.array([1, 2, 3, 1, 1, 1]) / 9)
    assert "All classes have as many examples; in training one counts up to 3 times as much" in strategy.effect(uneven)


def test_what_a_strategy_does_in_its_loss_or_in_a_second_stage_is_told() -> None:
    plain = single_label()
    plain = replace(plain, effective_prior=plain.counts / plain.counts.sum())

    def told(settings: dict[str, Any], **metrics: Any) -> str:
        return strategy.effect(replace(plain, config={"strategy": settings}, metrics=plain.metrics | metrics))

    unchanged = "Sampler and class weights leave the data as it is: the largest class counts 120 times the smallest"
    loss = {"_target_": "counterpoise.balance.LDAM", "_partial_": True, "max_margin": 0.5}
    assert told({"loss": loss}).startswith(unchanged)
    assert told({"loss": loss}).endswith(
        "The strategy trained with margins that are the wider the rarer a class is (LDAM)."
    )
    focal = {"_target_": "counterpoise.balance.focal", "label_weights": {"_target_": "x"}}
    assert told({"loss": focal}).endswith("counts less, with weights of its own.")
    assert told({"loss": {"_target_": "mine.Own"}}).endswith("The strategy trained with the loss Own.")
    cross_entropy = {"_target_": "counterpoise.balance.cross_entropy"}
    stage = {"_target_": "counterpoise.model.second_stage.TauNormalised", "tau": "auto"}
    text = told({"loss": cross_entropy, "second_stage": stage}, second_stage={"tau": 0.7})
    assert text.startswith(unchanged)
    assert text.endswith("in the data. A second stage brought the weights of the head to similar norms (tau 0.7).")
    stage = {"_target_": "counterpoise.model.second_stage.Retrained"}
    text = told({"loss": cross_entropy, "second_stage": stage}, second_stage={"epochs": 10, "steps": 1200})
    assert text.endswith("with a sampler of its own (epochs 10, steps 1,200).")
    assert told({"loss": cross_entropy, "second_stage": stage}).startswith("Nothing: ")
    assert told({"loss": cross_entropy, "schedule": {"_target_": "x"}}).startswith("Nothing in the epoch of the best ")


@pytest.mark.parametrize("target", sorted(strategy.LOSSES | strategy.STAGES))
def test_losses_and_second_stages_are_called_what_they_are(target: str) -> None:
    assert hasattr(counterpoise.balance, target) or hasattr(second_stage, target)


def test_rows_that_a_file_lost_are_counted_once_for_the_splits_cut_off_it() -> None:
    results = single_label()
    lost = {"without text": 3}
    parts = {name: {"examples": 10, "dropped": lost} for name in ("train", "validation", "test")}

    def dropped(**data: Any) -> list[str]:
        changed = replace(results, metrics=results.metrics | {"data": parts}, config={"data": data})
        return training._splits(changed)["dropped"].tolist()

    cut = "counted with train"
    assert dropped(train="a.csv", test=None) == ["3 without text", cut, cut]
    assert dropped(train="a.csv", test="b.csv") == ["3 without text", cut, "3 without text"]
    parts["test"] = {"examples": 10, "dropped": {}}
    assert dropped(train="a.csv", test="b.csv") == ["3 without text", cut, "–"]


def test_factors_are_no_powers_of_ten() -> None:
    assert [factor(value) for value in (1.0, 2.345, 99.4, 99.6, 1060, 2_345_678)] == [
        *("1", "2.35", "99.4", "100", "1,060", "2,345,678"),
    ]
    results = single_label()
    ratio = results.metrics | {"strategy": {"weight_ratio": 1060.0}}
    assert "weights up to 1,060 : 1" in score_panel.scores(replace(results, metrics=ratio)).body


def test_the_interval_of_a_share_holds_it() -> None:
    low, high = trust._wilson(np.array([0, 5, 10.0]), np.array([10, 10, 10]))
    assert low == pytest.approx([0, 0.2366, 0.7225], abs=1e-3)
    assert high == pytest.approx([0.2775, 0.7634, 1], abs=1e-3)


def test_counts_that_hardly_differ_still_label_the_axis() -> None:
    assert classes._log_axis(140, 200, 1.3)["ticktext"] == ["140", "200"]


# What is written


def sections(path: Path) -> list[str]:
    return re.findall(r'<section class="panel" id="([a-z]+)"', path.read_text())


def test_a_run_of_one_class_has_no_thresholds_and_one_of_labels_has(tmp_path: Path) -> None:
    write_run_report(tmp_path / "single.html", single_label())
    write_run_report(tmp_path / "multi.html", multi_label())
    assert sections(tmp_path / "single.html") == PANELS
    assert sections(tmp_path / "multi.html") == [*PANELS[:5], "thresholds", *PANELS[5:]]


@pytest.mark.parametrize("made", [single_label, multi_label], ids=["single", "multi"])
def test_what_is_not_known_is_left_out(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "report.html"
    write_run_report(path, made(calibration=None, history=None, data_warnings=[], seconds=None, config={}, probe=True))
    assert "calibration" in sections(path)
    assert "Probe" in path.read_text()
    results = made(calibration=None)
    broken = results.test_logits.copy()
    broken[0, 0] = np.nan
    write_run_report(path, replace(results, test_logits=broken))
    assert "calibration" not in sections(path)


def test_a_run_without_a_mistake_has_a_report(tmp_path: Path) -> None:
    for results in (single_label(calibration=None), multi_label(calibration=None)):
        perfect = np.where(results.truth.toarray(), 9.0, -9.0)
        decided = results.truth.toarray() if results.multi_label else None
        scores = (
            multilabel.scores(decided, perfect, results.test_targets, results.counts)
            if decided is not None
            else metrics.scores(metrics.confusion_matrix(results.test_targets, perfect.argmax(1), 6), results.counts)
        )
        changes = {"test_logits": perfect, "decided": decided, "metrics": results.metrics | {"test": scores}}
        write_run_report(tmp_path / "report.html", replace(results, **changes))  # type: ignore[arg-type]
        assert "errors" in sections(tmp_path / "report.html")


# What a reader does with it


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name, results in (("single", single_label()), ("multi", multi_label())):
        write_run_report(folder / f"{name}.html", results)
    return {name: folder / f"{name}.html" for name in ("single", "multi")}


def _opened(browser: Any, path: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Opened(context.new_page(), path)
    context.close()


@pytest.fixture(scope="module")
def single(browser: Any, reports: dict[str, Path]) -> Iterator[Opened]:
    yield from _opened(browser, reports["single"])


@pytest.fixture(scope="module")
def multi(browser: Any, reports: dict[str, Path]) -> Iterator[Opened]:
    yield from _opened(browser, reports["multi"])


def test_reports_open_without_a_complaint_and_run_nothing_foreign(single: Opened, multi: Opened) -> None:
    for opened in (single, multi):
        assert opened.complaints == []
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("h1").inner_text() == "run <i>one</i>"
        empty = "nodes => nodes.filter(node => !node.querySelector('svg')).length"
        assert opened.page.eval_on_selector_all("figure.plot", empty) == 0


@pytest.mark.parametrize("name", ["single", "multi"])
def test_a_report_fits_a_phone_in_the_dark_and_on_paper(reports: dict[str, Path], open_page: Any, name: str) -> None:
    opened = open_page(reports[name], viewport={"width": 360, "height": 700}, color_scheme="dark")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    background = "getComputedStyle(document.querySelector('.panel')).backgroundColor"
    assert opened.page.evaluate(background) == "rgb(26, 32, 39)"
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate(background) == "rgb(255, 255, 255)"
    assert not opened.page.locator("#confusion .controls").is_visible()
    assert opened.complaints == []


def test_texts_are_shown_as_they_are(single: Opened) -> None:
    shown = single.page.locator("#errors-list").text_content()
    assert HOSTILE[0] in shown
    assert HOSTILE[2] in shown
    assert single.page.locator("#errors-list img, #errors-list script, #errors-list a").count() == 0


def numbers(opened: Opened, average: str) -> dict[str, float]:
    """Returns what the table of thresholds shows."""
    cells = opened.page.eval_on_selector_all(
        f"[data-{average}]", f"cells => cells.map(cell => [cell.dataset.{average}, cell.textContent])"
    )
    return {name: float(text) for name, text in cells}


def expected(results: RunResults, threshold: float, split: str, average: str) -> dict[str, float]:
    logits = results.test_logits if split == "test" else results.validation_logits
    targets = results.test_targets if split == "test" else results.validation_targets
    truth, decided = targets.toarray(), expit(logits.astype(float)) > threshold  # type: ignore[union-attr]
    held = np.flatnonzero(truth.any(axis=0)) if average == "macro" else None
    found = precision_recall_fscore_support(truth, decided, average=average, labels=held, zero_division=0)
    result = dict(zip(("Precision", "Recall", "F1"), found, strict=False))
    if average == "micro":
        result |= {"given": decided.sum() / len(truth), "true": truth.sum() / len(truth)}
    return result


def test_the_slider_shows_what_a_threshold_does(multi: Opened) -> None:
    results, page = multi_label(), multi.page
    slider = page.locator("#thresholds-value")
    for average in ("micro", "macro"):
        assert numbers(multi, average) == pytest.approx(expected(results, 0.5, "test", average), abs=6e-3)
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#thresholds-shown").inner_text() == "0.400"
    for average in ("micro", "macro"):
        assert numbers(multi, average) == pytest.approx(expected(results, 0.4, "test", average), abs=6e-3)
    box = slider.bounding_box()
    slider.click(position={"x": 0.8 * box["width"], "y": box["height"] / 2})
    threshold = float(page.locator("#thresholds-shown").inner_text())
    assert 0.7 < threshold < 0.9
    page.locator("#thresholds-split").select_option("validation")
    for average in ("micro", "macro"):
        assert numbers(multi, average) == pytest.approx(expected(results, threshold, "validation", average), abs=6e-3)
    page.locator("#thresholds-split").select_option("test")


def test_one_label_starts_at_its_own_threshold(multi: Opened) -> None:
    results, page = multi_label(), multi.page
    page.locator("#thresholds-label").select_option(label="ordinary")
    assert page.locator("#thresholds-shown").inner_text() == "0.300"
    truth = results.test_targets.toarray()[:, 4]  # type: ignore[union-attr]
    decided = expit(results.test_logits[:, 4].astype(float)) > 0.3
    found = precision_recall_fscore_support(truth, decided, average="binary")
    shown = numbers(multi, "micro")
    assert [shown[name] for name in ("Precision", "Recall", "F1")] == pytest.approx(found[:3], abs=6e-4)
    assert not page.locator("[data-head=macro]").is_visible()
    described = "Precision, recall and F1 of ordinary against its threshold, on the test split"
    assert page.get_attribute("#thresholds-plot .canvas", "aria-label") == described
    page.locator("#thresholds-plot .infolayer", has_text="threshold of ordinary").wait_for()
    page.locator("#thresholds-label").select_option("")
    described = page.get_attribute("#thresholds-plot .canvas", "aria-label")
    assert described == "Precision, recall and F1 against one threshold for all labels, on the test split"
    page.locator("#thresholds-plot .infolayer", has_text="threshold for all labels").wait_for()


def test_a_run_that_uses_no_thresholds_has_none_in_its_page(
    open_page: Any, most_probable: RunResults, tmp_path: Path
) -> None:
    write_run_report(tmp_path / "report.html", most_probable)
    opened = open_page(tmp_path / "report.html")
    page = opened.page
    page.locator("#thresholds-label").select_option(label="ordinary")
    assert page.text_content("#thresholds-note") == "ordinary on the test split; the run used no thresholds"
    assert page.evaluate("report.plots['thresholds-plot'].layout.shapes.length") == 1
    assert "threshold" not in page.text_content("#errors-list")
    assert re.fullmatch(r"15 of the \d+ kept are shown", page.text_content("#errors-count"))
    assert opened.complaints == []


def test_of_many_classes_and_no_mistake_some_confusions_are_drawn(open_page: Any, tmp_path: Path) -> None:
    results = single_label(calibration=None)
    index = ClassIndex.of(np.repeat(np.arange(40), 4), 40)
    correction = Strategy().correction([f"class {c}" for c in range(40)], index)
    targets = np.arange(TEXTS) % 40
    logits = np.where(targets[:, None] == np.arange(40), 9.0, -9.0)
    scores = metrics.scores(metrics.confusion_matrix(targets, targets, 40), correction.counts)
    perfect = {name: logits if name.endswith("logits") else targets for name in ("test_logits", "test_targets")}
    perfect |= {"validation_logits": logits, "validation_targets": targets}
    changes = {
        "correction": correction,
        "effective_prior": correction.effective_prior,
        "metrics": results.metrics | {"test": scores},
    }
    write_run_report(tmp_path / "report.html", replace(results, **perfect, **changes))  # type: ignore[arg-type]
    opened = open_page(tmp_path / "report.html")
    assert opened.page.locator("#confusion-plot .ytick").count() == 20
    assert opened.complaints == []


def test_a_curve_is_added_by_name_and_removed(single: Opened) -> None:
    results, page = single_label(), single.page
    chips = page.locator("#curves-chosen li")
    for _ in range(chips.count()):
        chips.first.get_by_role("button").click()
    assert chips.count() == 0
    page.locator("#curves-add").focus()
    page.keyboard.type(HOSTILE[1])
    assert chips.count() == 0
    page.keyboard.press("Enter")
    assert chips.count() == 1
    area = average_precision_score(results.test_targets == 1, softmax(results.test_logits.astype(float), axis=1)[:, 1])
    assert chips.first.inner_text().split("\n")[0].startswith(HOSTILE[1])
    assert f"{area:.3f} on" in chips.first.inner_text()
    page.locator("#curves-add").fill("rare")
    page.keyboard.press("Enter")
    assert page.locator("#curves-message").inner_text() == "It has no test text."
    page.locator("#curves-add").fill("nobody")
    page.keyboard.press("Enter")
    assert page.locator("#curves-message").inner_text() == "There is no such name."
    assert page.locator("#curves-plot .trace").count() == 2
    assert single.complaints == []


def test_confusion_is_shown_around_a_class_and_in_order(single: Opened) -> None:
    page = single.page

    def ticks() -> list[str]:
        return page.eval_on_selector_all("#confusion-plot .ytick text", "nodes => nodes.map(n => n.textContent)")

    support = np.bincount(single_label().test_targets, minlength=6)
    assert len(ticks()) == 6
    assert f"ordinary ({support[4]})" in ticks()
    page.locator("#confusion-order").select_option("name")
    assert [name.split(" (")[0] for name in ticks()[-2:]] == ["ordinary", "rare"]
    confusion = metrics.confusion_matrix(single_label().test_targets, single_label().test_logits.argmax(1), 6)
    page.locator("#confusion-centre").select_option("5")
    involved = 1 + np.count_nonzero((confusion + confusion.T)[5, :5])
    assert len(ticks()) == involved
    page.locator("#confusion-centre").select_option("")
    page.locator("#confusion-colour").select_option("texts")
    cells = page.eval_on_selector_all("#confusion-plot .heatmap-label", "nodes => nodes.map(n => n.textContent)")
    assert sum(map(int, filter(None, cells))) == TEXTS


def test_mistakes_are_filtered_by_class_and_more_are_shown(single: Opened) -> None:
    results, page = single_label(), single.page
    items = page.locator("#errors-list > li")
    wrong = results.test_logits.argmax(1) != results.test_targets
    assert f"of {wrong.sum()} shown" in page.locator("#errors-count").inner_text()
    before = items.count()
    page.locator("#errors-more").focus()
    page.keyboard.press("Enter")
    assert items.count() == min(wrong.sum(), 2 * before)
    page.locator("[data-role=true]").select_option("2")
    assert f"of {(wrong & (results.test_targets == 2)).sum()} shown" in page.locator("#errors-count").inner_text()
    assert set(page.locator("#errors-list .verdict .right").all_inner_texts()) == {HOSTILE[2]}
    page.locator("#errors-list summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#errors-list details[open]").count() == 1
    page.locator("[data-role=true]").select_option("")


def test_another_score_and_one_class_are_found(multi: Opened) -> None:
    page, table = multi.page, multi_label().table
    page.locator("#recall-measure").select_option("precision")
    drawn = page.evaluate("Array.from(report.plots['recall-plot'].data[0].y)")
    assert drawn == pytest.approx(table.precision[table.test_count > 0].tolist())
    described = page.get_attribute("#recall-plot .canvas", "aria-label")
    assert described.startswith("Precision of each label against its training examples. Each point is a label")
    page.locator("#recall-find").fill("ordinary")
    assert "ordinary" in page.locator("#recall-plot svg").first.text_content()


def test_what_a_control_does_leaves_no_complaint(single: Opened, multi: Opened) -> None:
    assert single.complaints == multi.complaints == []
