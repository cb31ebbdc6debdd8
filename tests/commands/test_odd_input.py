"""Training, audit, evaluate and predict read odd files alike: the same refusals, and the same notices."""

import json

import pytest

from commandline import call, run, setting
from counterpoise.commands import audit, evaluate, predict

ROWS = [(f"alpha{row % 8} word{row}", "alpha") for row in range(40)] + [(f"beta{row % 8}", "beta") for row in range(20)]
PLAIN = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
LINES = PLAIN.splitlines()

REFUSED = {
    "unclosed quote": ("a.csv", "\n".join([*LINES[:9], f'"{LINES[9]}', *LINES[10:]]).encode(), "line 10"),
    "two stray quotes": (
        "a.csv",
        PLAIN.replace("alpha1 word1,", '"alpha1 word1,').replace("word30,", 'word30",').encode(),
        "line 3",
    ),
    "unknown encoding": ("a.csv", PLAIN.replace("word", "слово").encode("cp1251"), "encoding"),
    "null": ("a.jsonl", b'null\n{"text": "alpha1", "label": "alpha"}\n', "row 1"),
    "archive": ("a.csv", b"PK\x03\x04" + PLAIN.encode(), "ZIP"),
    "column twice": ("a.csv", PLAIN.replace("text,label", "text,text").encode(), "2 columns named 'text'"),
    "no header": ("a.csv", "\n".join(LINES[1:]).encode(), "data.columns"),
}
NOTICED = {
    "cp1252": ("a.csv", PLAIN.replace("word", "wörd").encode("cp1252"), "cp1252"),
    "UTF-16": ("a.csv", PLAIN.encode("utf-16"), "UTF-16"),
    "repeated header": ("a.csv", (PLAIN + PLAIN).encode(), "61"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts, tiny_encoder):
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *setting(texts, tiny_encoder), report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_every_command_refuses_alike(case, finished, tiny_encoder, tmp_path, monkeypatch, capsys):
    name, data, says = REFUSED[case]
    file = tmp_path / name
    file.write_bytes(data)
    source = ["data=files", f"data.train={file}", "encoder=local", f"encoder.name={tiny_encoder}"]
    for main, arguments in (
        (audit.main, source),
        (evaluate.main, [finished, file]),
        (predict.main, [finished, file, "--output", tmp_path / "out.parquet"]),
    ):
        assert call(main, monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    done = run(tmp_path / "run", *setting({"train": file, "test": file}, tiny_encoder))
    assert done.code == 2
    assert says in done.error


@pytest.mark.parametrize("case", NOTICED)
def test_every_command_gives_the_same_notice(case, finished, tiny_encoder, tmp_path, monkeypatch, caplog, capsys):
    name, data, says = NOTICED[case]
    file = tmp_path / name
    file.write_bytes(data)
    source = ["data=files", f"data.train={file}", "encoder=local", f"encoder.name={tiny_encoder}"]
    for main, arguments in (
        (audit.main, [*source, "encoder.max_length=16", "--output", tmp_path / "audit"]),
        (evaluate.main, [finished, file, "--output", tmp_path / "evaluation"]),
        (predict.main, [finished, file, "--output", tmp_path / "out.parquet"]),
    ):
        caplog.clear()
        assert call(main, monkeypatch, *arguments) == 0, capsys.readouterr().err
        assert says in caplog.text
    findings = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert says in "".join(findings["data_warnings"])
    assert says in "".join(json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["data_warnings"])
    overrides = [*setting({"train": file, "test": file}, tiny_encoder), "trainer.max_epochs=1"]
    done = run(tmp_path / "run", *overrides)
    assert done.code == 0, done.err
    assert says in done.err
    assert says in (done.folder / "report.html").read_text()
