import tracemalloc
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from counterpoise.balance import ClassIndex, PowerSampler
from counterpoise.data.batching import (
    BucketBatchSampler,
    EmbeddingDataset,
    TokenDataset,
    evaluation_batches,
    stratified_batches,
)
from counterpoise.data.token_store import TokenStore
from counterpoise.errors import UserError

N = 1000
COUNTS = np.array([700, 220, 60, 20])
CLASSES = np.random.default_rng(1).permutation(np.repeat(np.arange(4), COUNTS))
LENGTHS = np.random.default_rng(0).geometric(0.03, N) + 2
LAYOUTS = [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)]
"""(processes, accumulated micro-batches) of a step of 32."""


def shuffled(epoch: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(N)


def order(draw=shuffled, size=N, lengths=LENGTHS, batch_size=32, epoch=0, **options) -> BucketBatchSampler:
    batches = BucketBatchSampler(draw, size, lengths, batch_size, **options)
    batches.set_epoch(epoch)
    return batches


def rows(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def steps(world_size: int, accumulate: int, **options) -> list[list[list[int]]]:
    """Return the micro-batches of each optimizer step, over all processes."""
    dealt = [rows(order(rank=r, world_size=world_size, accumulate=accumulate, **options)) for r in range(world_size)]
    assert len({len(of_one) for of_one in dealt}) == 1
    starts = range(0, len(dealt[0]), accumulate)
    return [[batch for of_one in dealt for batch in of_one[start : start + accumulate]] for start in starts]


def padding(batches: list[list[int]]) -> float:
    cells = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - sum(LENGTHS[batch].sum() for batch in batches) / cells


def store_of(texts: list[list[int]]) -> TokenStore:
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in texts])])
    return TokenStore(Path(), np.concatenate(texts).astype(np.uint16), offsets, 0)


def test_the_order_is_a_function_of_seed_and_epoch():
    first = rows(order(seed=3, epoch=5))
    assert rows(order(seed=3, epoch=5)) == first
    assert rows(order(seed=3, epoch=6)) != first
    assert rows(order(seed=4, epoch=5)) != first


def test_iterating_again_gives_the_same_epoch_until_another_is_set():
    batches = order()
    first = rows(batches)
    assert rows(batches) == first
    batches.set_epoch(1)
    assert rows(batches) != first
    batches.set_epoch(0)
    assert rows(batches) == first


@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["grouped", "as drawn"])
@pytest.mark.parametrize(("world_size", "accumulate"), LAYOUTS)
def test_each_step_holds_the_same_rows_for_every_division(lengths, world_size, accumulate):
    whole = [sorted(step[0]) for step in steps(1, 1, lengths=lengths)]
    split_batch = [sorted(chain(*step)) for step in steps(world_size, accumulate, lengths=lengths)]
    assert split_batch == whole


@pytest.mark.parametrize(("world_size", "accumulate"), LAYOUTS)
def test_processes_share_an_epoch_without_overlap(world_size, accumulate):
    dealt = [row for step in steps(world_size, accumulate) for batch in step for row in batch]
    assert sorted(dealt) == list(range(N))


@pytest.mark.parametrize(("world_size", "accumulate"), LAYOUTS)
def test_micro_batches_of_a_step_are_of_equal_size(world_size, accumulate):
    for step in steps(world_size, accumulate):
        sizes = [len(batch) for batch in step]
        assert len(sizes) == world_size * accumulate
        if sum(sizes) == 32:
            assert set(sizes) == {32 // len(sizes)}
        else:
            assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(
    size=st.integers(1, 300),
    micro=st.sampled_from(LAYOUTS),
    batch_size=st.sampled_from([4, 8, 32]),
    seed=st.integers(0, 1000),
    lengths=st.sampled_from([LENGTHS, None]),
)
def test_the_steps_of_an_epoch_of_any_size_do_not_depend_on_their_division(size, micro, batch_size, seed, lengths):
    def dealt(world_size: int, accumulate: int) -> list[list[int]]:
        options = {"lengths": lengths, "batch_size": batch_size, "seed": seed}
        divided = steps(world_size, accumulate, draw=lambda epoch, rng: rng.permutation(size), size=size, **options)
        assert all(len(step) == world_size * accumulate for step in divided)
        return [list(chain(*step)) for step in divided]

    whole = dealt(1, 1)
    assert sorted(chain(*whole)) == list(range(size))
    assert list(map(sorted, dealt(*micro))) == list(map(sorted, whole))


@pytest.mark.parametrize("sampler", [PowerSampler(), PowerSampler(0.5), PowerSampler(1.0, "median")])
def test_the_batches_hold_exactly_the_drawn_rows(sampler):
    index = ClassIndex.from_targets(CLASSES, 4)

    def draw(epoch, rng):
        return sampler.draw(index, rng)

    dealt = rows(order(draw, sampler.size(index), seed=2, epoch=7))
    assert sorted(chain(*dealt)) == sorted(draw(7, np.random.default_rng([2, 7])))


def test_the_draw_may_depend_on_the_epoch():
    batches = order(lambda epoch, rng: np.full(40, epoch), 40)
    for epoch in (0, 3, 1):
        batches.set_epoch(epoch)
        assert set(chain(*rows(batches))) == {epoch}
    batches.resume(5, 0)
    assert set(chain(*rows(batches))) == {5}


def test_the_longest_text_is_in_the_first_step():
    for epoch in range(20):
        assert LENGTHS.argmax() in order(epoch=epoch).epoch_steps()[0]


def test_the_steps_do_not_depend_on_the_dtype_of_the_lengths():
    plan = order(seed=1, epoch=2).epoch_steps()
    assert len(plan) == 32
    for factor in (1, 1000, 10**8):
        assert rows(order(seed=1, epoch=2, lengths=LENGTHS * factor).epoch_steps()) == rows(plan)
    assert plan[3].tolist() == rows(plan)[3]


def test_the_order_of_a_seed_and_epoch_does_not_change_between_versions():
    dealt = np.concatenate([*order(seed=3, epoch=1, accumulate=2, world_size=2, rank=1)])
    assert crc32(dealt.astype("<i8").tobytes()) == 451097263


def test_an_epoch_of_many_steps_takes_a_few_bytes_per_row():
    drawn, lengths = np.arange(300_000, dtype=np.int32)[::-1].copy(), np.arange(300_000) % 256
    tracemalloc.start()
    try:
        batches = order(lambda epoch, rng: drawn, len(drawn), lengths, batch_size=8)
        assert sum(len(batch) for batch in batches) == len(drawn)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One of the narrowed lengths, and some numbers for each step.
    assert peak / len(drawn) < 8


def test_grouping_by_length_saves_padding():
    assert padding(rows(order())) < 0.4 * padding(rows(order(lengths=None)))


def test_without_grouping_rows_keep_the_drawn_order():
    dealt = rows(order(lengths=None, seed=1, epoch=2))
    assert list(chain(*dealt)) == shuffled(2, np.random.default_rng([1, 2])).tolist()
    assert [len(batch) for batch in dealt] == [32] * 31 + [8]


def test_grouping_does_not_sort_the_steps_of_an_epoch():
    means = np.array([LENGTHS[batch].mean() for batch in rows(order())])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 2), (1, 4)])
def test_an_order_resumes_after_every_step(world_size, accumulate):
    layout = {"rank": world_size - 1, "world_size": world_size, "accumulate": accumulate, "seed": 5}
    whole = rows(order(epoch=3, **layout))
    for step in range(len(whole) // accumulate + 1):
        resumed = order(**layout)
        resumed.resume(3, step)
        resumed.set_epoch(3)
        assert rows(resumed) == whole[step * accumulate :]
        assert rows(resumed) == whole


def test_resuming_within_an_epoch_does_not_shorten_another():
    resumed = order()
    resumed.resume(2, 5)
    resumed.set_epoch(3)
    assert rows(resumed) == rows(order(epoch=3))


def test_an_indivisible_batch_size_is_refused_in_one_line():
    with pytest.raises(UserError, match="multiple of 6") as error:
        order(batch_size=32, accumulate=3, world_size=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("kind", ["padded", "packed", "embeddings"])
def test_an_empty_micro_batch_is_an_example_that_counts_0(multi_label, kind):
    targets = csr_matrix(np.eye(2, dtype=bool)) if multi_label else np.array([0, 1])
    dataset = TokenDataset(store_of([[5, 6], [7]]), np.arange(2), targets, 0, np.ones(2), packed=kind == "packed")
    if kind == "embeddings":
        dataset = EmbeddingDataset(dataset, np.ones((2, 3), np.float32))
    filler, example = dataset[np.array([], int)], dataset[np.array([0])]
    assert filler["weights"].tolist() == [0]
    assert filler.keys() - example.keys() == {"filler"}
    assert all(values.shape == filler[name].shape for name, values in example.items())


def test_a_batch_is_padded_to_its_longest_text():
    store = store_of([[9, 9], [5, 6, 7], [1], [2, 3]])
    dataset = TokenDataset(store, np.array([3, 1, 2]), np.array([0, 1, 2]), pad=8)
    batch = dataset[np.array([2, 1, 0])]
    assert batch["input_ids"].tolist() == [[1, 8, 8], [5, 6, 7], [2, 3, 8]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert batch["targets"].tolist() == [2, 1, 0]
    assert batch["rows"].tolist() == [2, 1, 0]
    assert dataset[np.array([2, 0])]["input_ids"].tolist() == [[1, 8], [2, 3]]
    assert dataset.lengths.tolist() == [2, 3, 1]
    assert len(dataset) == 3


def test_multi_label_batches_hold_0_1_targets_and_instance_weights():
    targets = csr_matrix(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], bool))
    dataset = TokenDataset(store_of([[1], [2], [3]]), np.arange(3), targets, 0, np.array([0.5, 1.0, 1.5]))
    batch = dataset[np.array([2, 0, 1])]
    assert batch["targets"].dtype == torch.float32
    assert batch["targets"].tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert batch["weights"].tolist() == [1.5, 0.5, 1.0]


@pytest.mark.parametrize("weights", [None, np.array([0.5, 1.0, 1.5])], ids=["alike", "weighted"])
def test_an_embedding_batch_differs_from_a_token_batch_in_its_inputs_only(weights):
    tokens = TokenDataset(
        store_of([[9, 9], [5, 6, 7], [1], [2, 3]]), np.array([3, 1, 2]), np.array([0, 1, 2]), 8, weights
    )
    of_store = np.arange(8, dtype=np.float32).reshape(4, 2)
    dataset = EmbeddingDataset(tokens, of_store)
    wanted = np.array([2, 0, 2])
    batch, with_tokens = dataset[wanted], tokens[wanted]
    assert batch.pop("vectors").tolist() == [[4, 5], [6, 7], [4, 5]]
    del with_tokens["input_ids"], with_tokens["attention_mask"]
    assert batch.keys() == with_tokens.keys()
    assert all(torch.equal(batch[name], with_tokens[name]) for name in batch)
    assert dataset.lengths.tolist() == tokens.lengths.tolist()
    assert len(dataset) == 3
    dataset[wanted]["vectors"].zero_()
    assert of_store.sum() == 28


def test_a_subset_of_an_embedding_dataset_has_no_weights():
    tokens = TokenDataset(store_of([[1], [2], [3]]), np.array([2, 0, 1]), np.array([5, 6, 7]), 0, np.ones(3))
    taken = EmbeddingDataset(tokens, np.array([[0.0], [0.1], [0.2]], np.float32)).subset(np.array([2, 0]))
    batch = taken[np.array([0, 1])]
    np.testing.assert_allclose(batch["vectors"], [[0.1], [0.2]])
    assert batch["targets"].tolist() == [7, 5]
    assert "weights" not in batch


def test_a_packed_batch_has_the_tokens_of_its_texts_end_to_end():
    store = store_of([[9, 9], [5, 6, 7], [1], [2, 3]])
    dataset = TokenDataset(store, np.array([3, 1, 2]), np.array([0, 1, 2]), pad=8, packed=True)
    batch, padded = dataset[np.array([2, 1, 0])], TokenDataset(store, np.array([3, 1, 2]), np.array([0, 1, 2]), pad=8)
    assert batch["input_ids"].tolist() == [1, 5, 6, 7, 2, 3]
    assert batch["input_ids"].dtype == torch.int64
    for name, values in padded[np.array([2, 1, 0])].items():
        assert name == "input_ids" or torch.equal(batch[name], values)
    assert dataset.subset(np.array([1]))[np.array([0])]["input_ids"].tolist() == [5, 6, 7]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=12), st.data())
def test_the_tokens_of_each_row_arrive_unchanged(texts, data):
    dataset = TokenDataset(store_of(texts), np.arange(len(texts)), np.zeros(len(texts), int), pad=0)
    wanted = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8))
    batch = dataset[np.array(wanted)]
    for row, ids, mask in zip(wanted, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == texts[row]
        assert (ids[~mask.bool()] == 0).all()
        assert (mask.diff() <= 0).all()


@settings(deadline=None)
@given(st.integers(8, 300), st.sampled_from([2, 3, 16, 64]), st.sampled_from([1, 2, 4]))
def test_evaluation_holds_every_row_once_in_equally_many_batches(size, batch_size, world_size):
    for make, of in ((evaluation_batches, LENGTHS[:size]), (stratified_batches, CLASSES[:size])):
        dealt = [make(of, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert len({len(batches) for batches in dealt}) == 1
        assert sorted(np.concatenate([row for batches in dealt for row in batches])) == list(range(size))
        assert all(0 < len(batch) <= batch_size for batches in dealt for batch in batches)


def test_evaluation_starts_with_the_longest_texts():
    batches = evaluation_batches(LENGTHS, 64)
    dealt = LENGTHS[np.concatenate(batches)]
    assert (np.diff(dealt) <= 0).all()
    assert padding(rows(batches)) < 0.5 * padding(rows(order(lengths=None, batch_size=64)))


@pytest.mark.parametrize("batch_size", [20, 64, 100, 256])
@pytest.mark.parametrize("world_size", [1, 2])
def test_stratified_batches_have_the_class_proportions_of_the_split(batch_size, world_size):
    for rank in range(world_size):
        for batch in stratified_batches(CLASSES, batch_size, rank=rank, world_size=world_size):
            share = COUNTS * len(batch) / N
            assert (abs(np.bincount(CLASSES[batch], minlength=4) - share) <= 1.5).all()


def test_stratified_batches_spread_the_rarest_labels():
    rng = np.random.default_rng(0)
    targets = csr_matrix(rng.random((960, 3)) < [0.7, 0.3, 0.05])
    for batch in stratified_batches(targets, 96):
        assert abs(int(targets[batch][:, [2]].sum()) - targets[:, [2]].sum() / 10) < 1.5


def test_stratified_batches_take_classes_without_rows():
    batches = stratified_batches(np.array([3, 3, 0, 3, 0, 3]), 3)
    assert [sorted(np.array([3, 3, 0, 3, 0, 3])[batch]) for batch in batches] == [[0, 3, 3]] * 2


@pytest.mark.parametrize("make", [evaluation_batches, stratified_batches])
def test_fewer_rows_than_processes_are_refused_in_one_line(make):
    with pytest.raises(UserError, match="too few") as error:
        make(np.array([1, 1, 1]), 8, world_size=4)
    assert "\n" not in str(error.value)


def test_processes_get_equally_many_evaluation_batches():
    shares = [evaluation_batches(np.array([3, 1, 2]), 1, rank=rank, world_size=2) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    assert sorted(np.concatenate([rows for share in shares for rows in share])) == [0, 1, 2]
