"""The head's start at the embeddings of class names or descriptions."""

import pytest
import torch
from torch import nn

from commandline import load, run, setting
from counterpoise.errors import UserError
from counterpoise.model.heads import CosineHead, MLPHead, NormalisedHead, linear, start_at_class_vectors
from counterpoise.training.label_texts import read_label_texts
from refusals import user_error

LABELS = ["money-fx", "works-with::image", "tea"]


def vectors(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64) + 2


@pytest.mark.parametrize("factory", [linear, NormalisedHead, MLPHead])
def test_the_first_logits_are_cosines_of_centred_vectors_in_units_of_the_mean_distance(factory):
    head, classes, texts = factory(6, 4).double().eval(), vectors(4, 1), vectors(50)
    assert start_at_class_vectors(head, classes, texts)
    before = nn.Sequential(*list(head)[:-1]) if isinstance(head, nn.Sequential) else nn.Identity()
    features, class_features = before(texts), before(classes)
    centred = features - features.mean(0)
    cosines = torch.cosine_similarity(centred[:, None], (class_features - class_features.mean(0))[None], dim=2)
    lengths = centred.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(texts), 5 * cosines * lengths / lengths.mean())


def test_the_bias_that_the_head_had_is_kept():
    head, texts = linear(6, 4).double(), vectors(50)
    head.bias.data += torch.arange(4)
    start_at_class_vectors(head, vectors(4, 1), texts)
    torch.testing.assert_close(head(texts).mean(0), torch.arange(4.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "head", [CosineHead(6, 4), nn.Linear(6, 4, bias=False), nn.Sequential(nn.Linear(6, 4), nn.ReLU())]
)
def test_other_heads_stay_as_they_are(head):
    before = [parameter.clone() for parameter in head.parameters()]
    assert not start_at_class_vectors(head, vectors(4).float(), vectors(9).float())
    assert all(torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))


def test_names_are_split_into_words():
    assert read_label_texts("names", [*LABELS, "__"]) == ["money fx", "works with image", "tea", "__"]


def test_classes_without_a_text_start_at_their_names(tmp_path, caplog):
    (tmp_path / "labels.csv").write_text('\ufeffclass,text,more\ntea,"tea, green or black",x\n', "utf-8")
    texts = read_label_texts(str(tmp_path / "labels.csv"), LABELS)
    assert texts == ["money fx", "works with image", "tea, green or black"]
    assert "2 classes have no text and start at their names: money-fx, works-with::image" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "columns class and text"),
        ("class\ntea\n", "columns class and text"),
        ("class,text\nteas,x\n", "row 2 names 'teas', which is not a class. Did you mean 'tea'?"),
        ("class,text\ntea,x\ntea,y\n", "row 3 has a second text for 'tea'"),
        ("class,text\ntea\n", "row 2 has no text for 'tea'"),
        ("class,text\ntea,\xff\n", "not CSV in UTF-8"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content.encode("latin-1"))
    error = user_error(read_label_texts, str(tmp_path / "labels.csv"), LABELS)
    assert message in error


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file or directory; give names, or a CSV file"):
        read_label_texts(str(tmp_path / "none.csv"), LABELS)


def test_runs_with_different_seeds_start_at_the_same_head(texts, tiny_encoder, tmp_path):
    heads = []
    others = [each for each in setting(texts, tiny_encoder) if not each.startswith("seed=")]
    frozen = ("optim.encoder_lr=0", "optim.head_lr=0", "dropout=0", "label_texts=names")
    for seed in (0, 1):
        done = run(tmp_path / str(seed), *others, *frozen, f"seed={seed}")
        assert done.code == 0, done.err
        heads.append(load(done.folder / "checkpoints/last.ckpt")["state_dict"]["head.weight"])
    assert torch.equal(*heads)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train=probe", "a linear probe does not load its encoder"),
        ("head=cosine", "no effect: CosineHead"),
    ],
)
def test_what_cannot_start_at_texts_is_named(texts, tiny_encoder, tmp_path, override, message):
    done = run(tmp_path, *setting(texts, tiny_encoder), "label_texts=names", override)
    assert message in " ".join((done.out + done.err).split())
    assert done.code == (2 if override == "train=probe" else 0)
