"""`python -m counterpoise.audit`: the printed page, the files, and errors."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

import commandline
from counterpoise.commands import audit
from counterpoise.terminal import console

ROWS = {
    "train": [("word1 word2 word3", "a")] * 30
    + [("Word4 word5", "a"), ("word4  word5", "b"), ("word6", "b"), ("12 + 3", "[c]")]
    + [(" ".join(f"word{i}" for i in range(1, 20)), "a")],
    "validation": [("word6", "b"), ("word7 word8 \ufffd", "a")],
    "test": [("WORD4\nWORD5", "a"), ("\x1b[2J" + " ".join(f"word{i}" for i in range(1, 21)), "a"), ("alpha1", "new")],
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, rows in ROWS.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    return ["data=files", *(f"data.{name}={tmp_path / name}.csv" for name in ROWS)]


@pytest.fixture
def call(tiny_encoder, monkeypatch, capsys):
    """Calls the command line; returns exit code, standard output and standard error."""
    monkeypatch.setattr(console, "_width", 80)

    def run_audit(*arguments: object) -> tuple[int, str, str]:
        encoder = ["encoder=local", f"encoder.name={tiny_encoder}", "encoder.max_length=16"]
        return commandline.call(audit.main, monkeypatch, *encoder, *arguments), *capsys.readouterr()

    return run_audit


def test_page_fits_80_columns_and_nothing_is_written_without_output(call, files, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, _ = call(*files)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "imbalance 32 : 1" in out
    assert "strategy=square_root_sampled" in out
    assert "data.min_count=5 would remove 2 classes with fewer than 5 texts and their 3 of 35" in " ".join(out.split())
    assert "validation in train" in out
    assert "[c] 1" in out
    assert "- 1, 31, 1.00: WORD4 WORD5" in out
    assert "\x1b" not in out
    assert list(Path().iterdir()) == []


def test_options_may_stand_before_between_or_after_overrides(call, files, tmp_path):
    for place in (0, 2, len(files)):
        output = tmp_path / f"out{place}"
        code, _, err = call(*files[:place], "--output", output, *files[place:])
        assert code == 0, err
        assert (output / "audit.json").is_file()


def test_output_holds_findings_as_json_and_rows_as_csv(call, files, tmp_path):
    output = tmp_path / "out"
    code, _, err = call(*files, "--output", output)
    assert code == 0, err
    findings = json.loads((output / "audit.json").read_text())
    assert findings["counts"] == {"a": 32, "b": 2, "[c]": 1}
    assert findings["buckets"]["tail"] == {"number": 2, "examples": 3}
    train, test = findings["splits"]["train"], findings["splits"]["test"]
    assert (train["rows"], train["repeats"], train["tokens"]["longest"]) == (35, 30, 21)
    assert train["truncated"] == pytest.approx(1 / 35)
    assert (train["unusual"]["no letter"], train["unusual"]["one word"]) == (1, 1)
    assert findings["splits"]["validation"]["unusual"]["damaged characters"] == 1
    assert (test["rows"], test["unseen"], test["absent"], test["rare"]) == (2, 1, ["[c]", "b"], ["a"])
    validation, testing, _ = findings["leaks"]
    assert (validation["equal"], validation["near"], validation["of"]) == (1, 0, 2)
    assert (testing["equal"], testing["near"], testing["of"]) == (1, 1, 2)
    assert [(each["id"], each["of_id"]) for each in testing["examples"]] == [("1", "31"), ("2", "35")]
    assert (findings["conflicts"]["texts"], findings["conflicts"]["rows"]) == (1, 3)

    equal = pd.read_csv(output / "equal_texts.csv")
    assert equal[equal.conflict][["split", "id", "labels"]].values.tolist() == [
        ["train", 31, "a"],
        ["train", 32, "b"],
        ["test", 1, "a"],
    ]
    leaks = pd.read_csv(output / "leaks.csv")
    assert leaks[["split", "id", "of_split", "of_id"]].values.tolist() == [
        ["validation", 1, "train", 33],
        ["test", 1, "train", 31],
        ["test", 2, "train", 35],
    ]
    pairs = pd.read_csv(output / "near_duplicates.csv")
    assert pairs[["split", "id", "other_split", "other_id"]].values.tolist() == [["train", 35, "test", 2]]
    assert set(pd.read_csv(output / "unusual_texts.csv").reason) == {"one word", "no letter", "damaged characters"}


def test_multi_label_audit_uses_the_splits_of_a_run(call, tagged, tmp_path):
    arguments = ["data=files", f"data.train={tagged['train']}", "data.label=labels", "loader.test_fraction=0.3"]
    code, out, err = call(*arguments, "--output", tmp_path)
    assert code == 0, err
    assert "labels per text" in out
    findings = json.loads((tmp_path / "audit.json").read_text())
    rows = {name: split["rows"] for name, split in findings["splits"].items()}
    assert sum(rows.values()) == 240
    assert rows["test"] == 72
    assert findings["splits"]["train"]["unlabelled"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["data=reuters"], "data=reuters"),
        (["data.nonsense=1"], "data.nonsense"),
        (["data=files", "data.train=absent.csv"], "absent.csv"),
        (["loader.split_seed=one"], "loader.split_seed=one"),
        (["encoder.max_length=1000"], "encoder.max_length=1000"),
        (["--output", __file__], "--output"),
    ],
)
def test_user_error_is_one_line_with_exit_code_2(call, files, arguments, message):
    code, out, err = call(*files, *arguments)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_configuration_is_found_from_any_folder(call, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*files)[0] == 0


def test_configuration_of_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert audit.config_source()[0] != tmp_path / "conf"
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").touch()
    assert audit.config_source() == (tmp_path / "conf", "train")


def test_a_corrective_weight_column_changes_the_recommendation(call, tmp_path):
    path = tmp_path / "train.csv"
    counts = {"a": 80, "b": 8}
    table = pd.DataFrame(
        [(f"word{i} word{i % 7} {label}", label, 1 / n) for label, n in counts.items() for i in range(n)],
        columns=["text", "label", "balancing"],
    ).assign(equal=1.0)
    table.to_csv(path, index=False)
    for column, strategy in (("balancing", "plain"), ("equal", "combined")):
        code, out, _ = call("data=files", f"data.train={path}", f"data.weight={column}")
        assert code == 0
        assert f"strategy={strategy}\n" in out
        assert ("data.weight corrects" in out) == (strategy == "plain")


@pytest.mark.parametrize("share", [0.1, 0.4, 0.97])
def test_long_texts_are_counted_before_truncation_and_named_with_the_setting(call, tmp_path, share):
    long = " ".join(["word1"] * 271)  # and two special tokens
    rows = [(long if row < share * 200 else f"word{row} word2", "ab"[row % 2]) for row in range(200)]
    with (tmp_path / "mails.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    output = tmp_path / "out"
    code, out, err = call("data=files", f"data.train={tmp_path / 'mails.csv'}", "--output", output)
    assert code == 0, err
    assert ("truncated to encoder.max_length=16" in " ".join(out.split())) == (share > 0.2)
    findings = json.loads((output / "audit.json").read_text())
    assert findings["splits"]["train"]["tokens"]["longest"] == 273
    assert findings["splits"]["train"]["tokens"]["median"] == (273 if share > 0.5 else 4)
    assert any("encoder.max_length=16" in line for line in findings["data_warnings"]) == (share > 0.2)


@pytest.mark.parametrize("tiny", [0, 1, 6, 12])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_audit_says_what_min_count_removes_and_a_run_removes_it(call, tmp_path, tiny, multi_label):
    counts = {f"large{n}": 40 for n in range(4)} | {f"tiny{n}": 1 + n % 4 for n in range(tiny)}
    rows = [(f"word{n} {label}", label) for label, count in counts.items() for n in range(count)]
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    arguments = ["data=files", f"data.train={tmp_path / 'train.csv'}", *["data.separator='|'"] * multi_label]
    outputs = []
    for least in (1, 5):
        code, out, err = call(*arguments, f"data.min_count={least}", "--output", tmp_path / str(least))
        assert code == 0, err
        outputs.append((json.loads((tmp_path / str(least) / "audit.json").read_text()), out))
    (before, out), (after, out_after) = outputs
    removed = before["recommended"]["min_count"]
    assert ("data.min_count=5 would remove" in out) == (tiny > 0)
    assert after["recommended"]["min_count"] is None
    assert "data.min_count" not in out_after
    if removed:
        rows = [sum(split["rows"] for split in each["splits"].values()) for each in (before, after)]
        assert removed["classes"] == tiny == len(before["counts"]) - len(after["counts"])
        assert multi_label or removed["texts"] == rows[0] - rows[1]
