import base64
import gzip
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit, logit, softmax
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

import counterpoise.balance
from browser import Opened
from counterpoise.balance import ClassIndex, Strategy
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.model import second_stage
from counterpoise.report.run import mistakes, thresholds
from counterpoise.report.run.calibration import _reliability, calibration_panel
from counterpoise.report.run.confusion import confusion_counts
from counterpoise.report.run.costs import costs_panel
from counterpoise.report.run.data import data_panel
from counterpoise.report.run.learning import describe_learning
from counterpoise.report.run.mistakes import mistakes_panel
from counterpoise.report.run.precision_recall import precision_recall_panel
from counterpoise.report.run.run_report import write_run_report
from counterpoise.report.run.scores import estimates, scores_panel
from counterpoise.report.run.strategy import LOSSES, SECOND_STAGES, describe_strategy, strategy_panel
from counterpoise.training.results import RunResults, one_hot
from report.runs import HOSTILE, LABELS, TEXTS, multi_label, single_label
from scores import multi_label_scores, single_label_scores

PANELS = ["scores", "strategy", "recall", "confusion", "curves", "calibration", "errors", "learning", "data"]


def block(body: str, name: str) -> Any:
    """Return the content of a data block of a panel."""
    packed = re.search(rf'id="{name}">([^<]*)<', body)
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


# Numbers


def test_plot_of_a_plain_strategy_does_not_magnify_rounding_errors() -> None:
    results = single_label()
    plain = replace(results, correction=Strategy().correction(results.labels, results.correction.index))
    drawn = re.search(r'<script type="application/json">(.*?)</script>', strategy_panel(plain).body, re.DOTALL)
    assert drawn
    low, high = json.loads(drawn[1])["layout"]["yaxis2"]["range"]
    assert 10**low <= 0.5
    assert 10**high >= 2


@pytest.mark.parametrize("results", [single_label(), multi_label()], ids=["single", "multi"])
def test_scores_equal_metrics_json_and_lie_inside_their_intervals(results: RunResults) -> None:
    nothing = csr_matrix(results.truth.shape, dtype=bool)
    found = estimates(results, nothing)
    compared = [name for name in found if name in results.metrics["test"]]
    assert {"macro_f1", "tail_recall"} <= set(compared)
    for name in compared:
        assert found[name].value == pytest.approx(results.metrics["test"][name])
        assert found[name].low <= found[name].value <= found[name].high
        assert found[name].baseline == 0


def test_single_label_baseline_predicts_the_largest_class() -> None:
    results = single_label()
    always = one_hot(np.zeros(TEXTS, int), len(LABELS))
    found = estimates(results, always)
    scores = single_label_scores(ClassCounts.of(results.test_targets, np.zeros(TEXTS, int), 6), results.counts)
    assert found["accuracy"].baseline == pytest.approx(scores["majority_accuracy"])
    assert found["macro_f1"].baseline == pytest.approx(scores["majority_macro_f1"])


def test_single_label_confusions_equal_the_confusion_matrix() -> None:
    results = single_label()
    expected = confusion_matrix(results.test_targets, results.test_logits.argmax(1), labels=range(6))
    assert (confusion_counts(results.truth, results.predicted, False).toarray() == expected).all()


def test_multi_label_confusions_pair_missed_and_wrongly_predicted_labels() -> None:
    results = multi_label()
    truth, given = results.test_targets.toarray(), results.decided
    expected = np.zeros((6, 7), int)
    for true, got in zip(truth, given, strict=True):
        wrong = np.flatnonzero(got & ~true)
        for missed in np.flatnonzero(true & ~got):
            for instead in wrong if len(wrong) else [6]:
                expected[missed, instead] += 1
    assert expected.sum() > 20
    assert (confusion_counts(results.truth, results.predicted, True).toarray() == expected).all()


def test_histogram_is_exact_at_every_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "BLOCK_SIZE", 6 * 50)
    results = multi_label()
    found = thresholds.histogram(results.test_logits, results.truth)
    above = [np.asarray(found[name])[:, ::-1].cumsum(axis=1)[:, ::-1] for name in ("predicted", "true_positives")]
    for k, threshold in enumerate(thresholds.GRID):
        decided = expit(results.test_logits.astype(float)) > threshold
        assert (above[0][:, k + 1] == decided.sum(axis=0)).all()
        assert (above[1][:, k + 1] == (decided & results.test_targets.toarray()).sum(axis=0)).all()
    assert found["texts"] == TEXTS


@pytest.mark.parametrize("results", [single_label(), multi_label()], ids=["single", "multi"])
def test_area_under_curves_equals_average_precision(results: RunResults) -> None:
    content = block(precision_recall_panel(results).body, "curves-data")
    scores = results.test_logits if results.multi_label else softmax(results.test_logits.astype(float), axis=1)
    for c, series in enumerate(content["series"]):
        truth = results.truth[:, [c]].toarray().ravel()
        if not truth.any():
            assert series is None
            continue
        recall = np.array(series["true_positives"]) / truth.sum()
        precision = np.array(series["true_positives"]) / series["predicted"]
        area = np.diff(recall, prepend=0) @ precision
        assert area == pytest.approx(average_precision_score(truth, scores[:, c]))


def test_equal_scores_make_one_point_of_a_curve() -> None:
    results = single_label()
    content = block(precision_recall_panel(replace(results, test_logits=np.zeros((TEXTS, 6)))).body, "curves-data")
    assert content["series"][0]["predicted"] == [TEXTS]


def test_single_label_mistakes_are_sorted_by_confidence() -> None:
    results = single_label()
    listed = block(mistakes_panel(results).body, "errors-data")["errors"]
    wrong = np.flatnonzero(results.test_logits.argmax(1) != results.test_targets)
    assert {each["row"] for each in listed} == set(wrong.tolist())
    sure = softmax(results.test_logits.astype(float), axis=1).max(axis=1)
    assert [each["p_predicted"] for each in listed] == sorted(sure[wrong].round(4), reverse=True)


def test_multi_label_mistakes_alternate_false_positives_and_negatives() -> None:
    results = multi_label()
    content = block(mistakes_panel(results).body, "errors-data")
    for each in content["errors"]:
        true = results.test_targets[each["row"], each["label"]]
        given = results.decided[each["row"], each["label"]]  # type: ignore[index]
        assert (each["kind"] == "false_positive") == given
        assert true != given
    kinds = [each["kind"] for each in content["errors"]]
    assert kinds[:4] == ["false_positive", "false_negative"] * 2
    assert content["texts"].keys() == {str(each["row"]) for each in content["errors"]}


def distances(results: RunResults, kind: str) -> list[float]:
    """Return the distances of the mistakes of a kind from their thresholds, in order."""
    found = [each for each in block(mistakes_panel(results).body, "errors-data")["errors"] if each["kind"] == kind]
    assert results.thresholds is not None
    beyond = [
        results.test_logits[each["row"], each["label"]] - logit(results.thresholds[each["label"]]) for each in found
    ]
    return [value if kind == "false_positive" else -value for value in beyond]


def test_multi_label_mistakes_are_sorted_by_distance_to_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "MAX_MISTAKES", 10_000)
    results = multi_label()
    assert results.decided is not None
    assert results.thresholds is not None
    # As at_least_one gives them: some labels far below their thresholds.
    forced = replace(results, decided=results.decided | (results.test_logits < -1))
    for kind in ("false_positive", "false_negative"):
        for each in (results, forced):
            found = distances(each, kind)
            assert found == sorted(found, reverse=True)
    assert min(distances(forced, "false_positive")) < 0 < max(distances(forced, "false_positive"))


@pytest.fixture(scope="module")
def most_probable() -> RunResults:
    """A run that gives each text its two most probable labels."""
    results = multi_label()
    ranks = np.argsort(np.argsort(-results.test_logits, axis=1), axis=1)
    return replace(results, decided=ranks < 2, thresholds=np.full(6, 0.5), config={"decision": {"top_k": 2}})


def test_top_k_decisions_show_no_thresholds(most_probable: RunResults) -> None:
    panel = mistakes_panel(most_probable)
    assert "2 most probable labels" in panel.note
    listed = block(panel.body, "errors-data")["errors"]
    assert not any("threshold" in each for each in listed)
    given, missed = (
        [each["p"] for each in listed if each["kind"] == kind] for kind in ("false_positive", "false_negative")
    )
    assert given == sorted(given, reverse=True)
    assert missed == sorted(missed)
    panel = thresholds.thresholds_panel(most_probable)
    assert panel is not None
    assert "2 most probable labels" in panel.note
    assert block(panel.body, "thresholds-data")["thresholds"] is None
    assert "own-thresholds-plot" not in panel.body


def options(body: str, role: str) -> dict[str, int]:
    """Return the classes offered as filters, with their numbers of mistakes."""
    select = re.search(rf'data-role="{role}">(.*?)</select>', body, re.DOTALL)
    assert select
    found = re.findall(r">(.*) \((\d+)\)</option>", select[1])
    return {html.unescape(name): int(count) for name, count in found}


def test_filters_count_all_mistakes_and_the_note_says_how_many_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "MAX_MISTAKES", 5)
    results = single_label()
    predicted, truth = results.test_logits.argmax(1), np.asarray(results.test_targets)
    wrong = predicted != truth
    panel = mistakes_panel(results)
    for role, classes_ in (("true", truth), ("predicted", predicted)):
        expected = np.bincount(classes_[wrong], minlength=6)
        assert options(panel.body, role) == {LABELS[c]: expected[c] for c in np.flatnonzero(expected)}
    content = block(panel.body, "errors-data")
    kept = len(content["errors"])
    assert 5 < kept < wrong.sum()
    assert not content["complete"]
    assert f"{kept} of {wrong.sum()}" in panel.note
    several = multi_label()
    panel = mistakes_panel(several)
    missed_or_given = (several.truth != several.predicted).toarray().sum(axis=0)
    assert options(panel.body, "label") == {LABELS[c]: missed_or_given[c] for c in np.flatnonzero(missed_or_given)}
    assert f"of {missed_or_given.sum()}:" in panel.note


@pytest.mark.parametrize(
    ("exponent", "number"),
    [(1, "120 times"), (0.5, "11 times"), (-1.5, "1,315 times"), (0, "the same for all classes")],
)
def test_description_of_the_strategy_compares_largest_and_smallest_class(exponent: float, number: str) -> None:
    results = single_label()
    prior = results.counts.astype(float) ** exponent
    assert number in describe_strategy(replace(results, effective_prior=prior / prior.sum()))


@pytest.mark.parametrize("target", sorted(LOSSES | SECOND_STAGES))
def test_described_losses_and_second_stages_exist(target: str) -> None:
    assert hasattr(counterpoise.balance, target) or hasattr(second_stage, target)


def test_description_of_learning_names_overfitting_and_a_rising_loss() -> None:
    results = single_label()
    text = describe_learning(results)
    assert "overfits" in text
    assert "50%" in text
    assert "step 100" in text
    close = results.metrics | {"train_sample": results.metrics["test"]}
    assert "overfits" not in describe_learning(replace(results, metrics=close, history=None))


def test_dropped_rows_of_one_file_are_listed_once() -> None:
    results = single_label()
    parts = {name: {"examples": 10, "dropped": {"without text": 3}} for name in ("train", "validation", "test")}
    for files, times in (({"train": "a.csv"}, 1), ({"train": "a.csv", "test": "b.csv"}, 2)):
        changed = replace(results, metrics=results.metrics | {"data": parts}, config={"data": files})
        assert data_panel(changed).body.count("3 without text") == times


# Pages


def sections(path: Path) -> list[str]:
    return re.findall(r'<section class="panel" id="([a-z]+)"', path.read_text())


def test_only_multi_label_runs_have_a_thresholds_panel(tmp_path: Path) -> None:
    write_run_report(tmp_path / "single.html", single_label())
    write_run_report(tmp_path / "multi.html", multi_label())
    assert sections(tmp_path / "single.html") == PANELS
    assert sections(tmp_path / "multi.html") == [*PANELS[:5], "thresholds", *PANELS[5:]]


@pytest.mark.parametrize("made", [single_label, multi_label], ids=["single", "multi"])
def test_missing_results_are_omitted(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "report.html"
    write_run_report(path, made(calibration=None, history=None, data_warnings=[], seconds=None, config={}, probe=True))
    assert "calibration" in sections(path)
    assert "Linear probe" in path.read_text()
    results = made(calibration=None)
    broken = results.test_logits.copy()
    broken[0, 0] = np.nan
    write_run_report(path, replace(results, test_logits=broken))
    assert "calibration" not in sections(path)


def test_a_run_without_mistakes_has_a_report(tmp_path: Path) -> None:
    for results in (single_label(calibration=None), multi_label(calibration=None)):
        perfect = np.where(results.truth.toarray(), 9.0, -9.0)
        decided = results.truth.toarray() if results.multi_label else None
        scores = (
            multi_label_scores(decided, perfect, results.test_targets, results.counts)
            if decided is not None
            else single_label_scores(ClassCounts.of(results.test_targets, perfect.argmax(1), 6), results.counts)
        )
        changes = {"test_logits": perfect, "decided": decided, "metrics": results.metrics | {"test": scores}}
        write_run_report(tmp_path / "report.html", replace(results, **changes))  # type: ignore[arg-type]
        assert "errors" in sections(tmp_path / "report.html")


# Interaction


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


def test_reports_open_without_errors_and_run_no_hostile_script(single: Opened, multi: Opened) -> None:
    for opened in (single, multi):
        assert opened.complaints == []
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("h1").inner_text() == "run <i>one</i>"
        empty = "nodes => nodes.filter(node => !node.querySelector('svg')).length"
        assert opened.page.eval_on_selector_all("figure.plot", empty) == 0


@pytest.mark.parametrize(("plot", "axes"), [("balance-plot", ["y", "y2"]), ("learning-plot", ["y", "y2", "y3"])])
def test_each_axis_has_ticks_however_short_it_is(
    plot: str, axes: list[str], open_page: Callable[..., Opened], tmp_path: Path
) -> None:
    steps = np.arange(9, 200, 10)
    history = pd.DataFrame({"step": steps, "train/loss_step": 3.6 - steps / 1000, "train/grad_norm": 2 + steps / 1000})
    history["val/macro_f1"] = 0.5 + steps / 1000
    write_run_report(tmp_path / "report.html", single_label(history=history))
    page = open_page(tmp_path / "report.html").page
    counts = {axis: page.locator(f"#{plot} .{axis}tick text").count() for axis in axes}
    assert min(counts.values()) >= 2, counts


@pytest.mark.parametrize("name", ["single", "multi"])
def test_a_report_fits_a_phone_dark_mode_and_print(reports: dict[str, Path], open_page: Any, name: str) -> None:
    opened = open_page(reports[name], viewport={"width": 360, "height": 700}, color_scheme="dark")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    background = "getComputedStyle(document.querySelector('.panel')).backgroundColor"
    assert opened.page.evaluate(background) == "rgb(26, 32, 39)"
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate(background) == "rgb(255, 255, 255)"
    assert not opened.page.locator("#confusion .controls").is_visible()
    assert opened.complaints == []


def test_texts_are_shown_literally(single: Opened) -> None:
    shown = single.page.locator("#errors-list").text_content()
    assert HOSTILE[0] in shown
    assert HOSTILE[2] in shown
    assert single.page.locator("#errors-list img, #errors-list script, #errors-list a").count() == 0


def numbers(opened: Opened, average: str) -> dict[str, float]:
    """Return the numbers in the table of thresholds."""
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
        result |= {"predicted": decided.sum() / len(truth), "true": truth.sum() / len(truth)}
    return result


def test_the_slider_shows_the_scores_of_scikit_learn(multi: Opened) -> None:
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


def test_a_chosen_label_starts_at_its_own_threshold(multi: Opened) -> None:
    results, page = multi_label(), multi.page
    page.locator("#thresholds-label").select_option(label="ordinary")
    assert page.locator("#thresholds-shown").inner_text() == "0.300"
    truth = results.test_targets.toarray()[:, 4]  # type: ignore[union-attr]
    decided = expit(results.test_logits[:, 4].astype(float)) > 0.3
    found = precision_recall_fscore_support(truth, decided, average="binary")
    shown = numbers(multi, "micro")
    assert [shown[name] for name in ("Precision", "Recall", "F1")] == pytest.approx(found[:3], abs=6e-4)
    assert not page.locator("[data-head=macro]").is_visible()
    assert "ordinary" in page.get_attribute("#thresholds-plot .canvas", "aria-label")
    page.locator("#thresholds-plot .infolayer", has_text="threshold of ordinary").wait_for()
    page.locator("#thresholds-label").select_option("")
    assert "all labels" in page.get_attribute("#thresholds-plot .canvas", "aria-label")
    page.locator("#thresholds-plot .infolayer", has_text="threshold for all labels").wait_for()


def test_a_page_of_top_k_decisions_shows_no_thresholds(
    open_page: Any, most_probable: RunResults, tmp_path: Path
) -> None:
    write_run_report(tmp_path / "report.html", most_probable)
    opened = open_page(tmp_path / "report.html")
    page = opened.page
    page.locator("#thresholds-label").select_option(label="ordinary")
    assert "ordinary" in page.text_content("#thresholds-note")
    assert page.evaluate("report.plots['thresholds-plot'].layout.shapes.length") == 1
    assert "threshold" not in page.text_content("#errors-list")
    assert "15 of" in page.text_content("#errors-count")
    assert opened.complaints == []


def test_confusion_of_many_classes_without_mistakes_is_drawn(open_page: Any, tmp_path: Path) -> None:
    results = single_label(calibration=None)
    index = ClassIndex.from_targets(np.repeat(np.arange(40), 4), 40)
    correction = Strategy().correction([f"class {c}" for c in range(40)], index)
    targets = np.arange(TEXTS) % 40
    logits = np.where(targets[:, None] == np.arange(40), 9.0, -9.0)
    scores = single_label_scores(ClassCounts.of(targets, targets, 40), correction.counts)
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
    assert f"{area:.3f}" in chips.first.inner_text()
    page.locator("#curves-add").fill("rare")
    page.keyboard.press("Enter")
    assert "no test text" in page.locator("#curves-message").inner_text()
    page.locator("#curves-add").fill("nobody")
    page.keyboard.press("Enter")
    assert "No class" in page.locator("#curves-message").inner_text()
    assert page.locator("#curves-plot .trace").count() == 2
    assert single.complaints == []


def test_confusion_follows_focus_order_and_colour(single: Opened) -> None:
    page = single.page

    def ticks() -> list[str]:
        return page.eval_on_selector_all("#confusion-plot .ytick text", "nodes => nodes.map(n => n.textContent)")

    support = np.bincount(single_label().test_targets, minlength=6)
    assert len(ticks()) == 6
    assert f"ordinary ({support[4]})" in ticks()
    page.locator("#confusion-order").select_option("name")
    assert [name.split(" (")[0] for name in ticks()[-2:]] == ["ordinary", "rare"]
    confusion = confusion_matrix(single_label().test_targets, single_label().test_logits.argmax(1), labels=range(6))
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
    assert f"of {wrong.sum()}" in page.locator("#errors-count").inner_text()
    before = items.count()
    page.locator("#errors-more").focus()
    page.keyboard.press("Enter")
    assert items.count() == min(wrong.sum(), 2 * before)
    page.locator("[data-role=true]").select_option("2")
    assert f"of {(wrong & (results.test_targets == 2)).sum()}" in page.locator("#errors-count").inner_text()
    assert set(page.locator("#errors-list .verdict .right").all_inner_texts()) == {HOSTILE[2]}
    page.locator("#errors-list summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#errors-list details[open]").count() == 1
    page.locator("[data-role=true]").select_option("")


def test_another_metric_can_be_shown_and_a_class_found(multi: Opened) -> None:
    page, table = multi.page, multi_label().table
    page.locator("#recall-measure").select_option("precision")
    drawn = page.evaluate("Array.from(report.plots['recall-plot'].data[0].y)")
    assert drawn == pytest.approx(table.precision[table.test_count > 0].tolist())
    described = page.get_attribute("#recall-plot .canvas", "aria-label")
    assert described.startswith("Precision of each label")
    page.locator("#recall-find").fill("ordinary")
    assert "ordinary" in page.locator("#recall-plot svg").first.text_content()


def test_a_name_that_does_not_exist_gets_a_reply(multi: Opened) -> None:
    field, message = multi.page.locator("#recall-find"), multi.page.locator("#recall-message")
    field.fill("nothing like it")
    assert message.inner_text() == "No label with test examples has this name."
    field.fill("RDINAR")
    assert message.inner_text().endswith("ordinary")
    field.fill("ordinary")
    assert message.inner_text() == ""
    field.fill("")
    assert message.inner_text() == ""


def test_bins_of_few_texts_are_not_joined_by_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plot = calibration_plot(single_label())
    lines = [trace for trace in plot.data[1:] if trace.type == "scatter" and trace.mode == "lines"]
    points = [trace for trace in plot.data if trace.type == "scatter" and trace.mode == "markers"]
    assert len(lines) == len(points) >= 1
    for line, markers in zip(lines, points, strict=True):
        counts = np.asarray(markers.customdata)
        assert list(line.x) == [x for x, count in zip(markers.x, counts, strict=True) if count > 3]


def calibration_plot(results: RunResults) -> Any:
    edges, counts = np.linspace(0, 1, 6), np.array([1, 3, 4, 0, 50])
    share = np.linspace(0.1, 0.9, 5)
    bins = SimpleNamespace(edges=edges, counts=counts, confidence=share, accuracy=share)
    return _reliability({"raw": bins}, results.multi_label)  # type: ignore[dict-item]


def test_a_run_with_costs_shows_what_they_change() -> None:
    results = single_label()
    probable = results.test_logits.argmax(axis=1)
    cheapest = np.where(np.arange(len(probable)) < 7, (probable + 1) % 6, probable)
    metrics = {**results.metrics, "costs": {"most_probable": 0.5, "least_cost": 0.3}}
    panel = costs_panel(replace(results, metrics=metrics, least_cost=cheapest))
    assert panel is not None
    assert "0.3 with the decision of least expected cost and 0.5" in panel.note
    assert "0.2 less" in panel.note
    assert "differ for 7 of 240" in panel.note
    assert costs_panel(results) is None


def test_controls_raise_no_error(single: Opened, multi: Opened) -> None:
    assert single.complaints == multi.complaints == []


@pytest.mark.parametrize("change", [-0.034, 0.0, 0.034])
@pytest.mark.parametrize("run", [single_label, multi_label])
def test_the_page_says_if_the_chosen_calibration_raises_the_calibration_error(run, change):
    measured = run().calibration
    summary = json.loads(json.dumps(measured.summary))
    summary["test"]["raw"]["ece"] = summary["test"]["temperature"]["ece"] - change
    calibrated = replace(measured, variant="temperature", summary=summary)
    note = calibration_panel(run(calibration=calibrated)).note
    assert f"{summary['test']['temperature']['nll']:.3f}" in note
    assert f"{summary['test']['raw']['nll']:.3f}" in note
    risen = note.partition("On the test split the")[2]
    assert ("ECE" in risen) == (change > 0)


@pytest.mark.parametrize("monitor", ["val/macro_f1", "val/accuracy", "val/loss"])
@pytest.mark.parametrize("scores", [[0.3, 0.2, 0.1], [0.1, 0.3, 0.2], [0.1, 0.2, 0.3]])
def test_a_falling_validation_loss_suggests_no_longer_training_after_the_peak_of_the_metric(monitor, scores):
    history = pd.DataFrame({"step": [9, 19, 29], "val/loss": [0.9, 0.8, 0.7], "val/macro_f1": 0.5, "val/accuracy": 0.5})
    if monitor != "val/loss":
        history[monitor] = scores
    text = describe_learning(single_label(history=history, config={"monitor": monitor}))
    peaked = monitor != "val/loss" and scores[-1] < max(scores)
    assert ("longer training is unlikely to help" in text) == peaked
    assert (f"step {10 * (1 + int(np.argmax(scores)))}" in text) == peaked
    assert "lowest at the end" in text


@pytest.mark.parametrize("run", [single_label, multi_label])
def test_the_page_says_if_the_model_is_worse_than_constant_predictions(run):
    results, prefix = run(), "constant" if run is multi_label else "majority"
    main = "micro_f1" if run is multi_label else "accuracy"
    assert "worse than" not in scores_panel(results).note
    worse = results.metrics["test"] | {f"{prefix}_{main}": 0.999, f"{prefix}_macro_f1": 0.999}
    assert "worse than" in scores_panel(run(metrics=results.metrics | {"test": worse})).note
