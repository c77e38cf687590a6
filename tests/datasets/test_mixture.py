import pytest
import torch
from torch.utils.data import DataLoader

from minigpt4.conversation.conversation import Example, Turn
from minigpt4.datasets.mixture import BadSample, MixtureComponent, MixtureDataset, MixtureSampler, SampleRef

SMALL = [MixtureComponent("a", 7, 2, 3), MixtureComponent("b", 5, 3, 1)]


def rows_of(batches, name):
    return [(ref.pass_index, ref.row) for batch in batches for ref in batch if ref.dataset == name]


def test_a_batch_comes_from_one_dataset_and_has_its_size():
    for batch in MixtureSampler(SMALL, num_steps=50, seed=1):
        assert {ref.dataset for ref in batch} in ({"a"}, {"b"})
        assert len(batch) == {"a": 2, "b": 3}[batch[0].dataset]


def test_shares_of_draws_agree_with_the_ratios():
    components = [
        MixtureComponent("a", 9, 1, 50),
        MixtureComponent("b", 9, 1, 30),
        MixtureComponent("c", 9, 1, 20),
        MixtureComponent("d", 9, 1, 0),
    ]
    choices = MixtureSampler(components, num_steps=20000, seed=42).choices[:, 0]
    shares = [(choices == number).mean() for number in range(4)]
    # four standard deviations of a share of 20000 steps are at most 0.0142
    assert shares == [pytest.approx(0.5, abs=0.0142), pytest.approx(0.3, abs=0.0142), pytest.approx(0.2, abs=0.0142), 0]


def test_every_rank_draws_its_own_datasets():
    zero, one = MixtureSampler(SMALL, num_steps=100, seed=1, world_size=2).choices.T
    assert (zero != one).any()
    assert (zero == MixtureSampler(SMALL, num_steps=100, seed=1).choices[:, 0]).all()


def test_another_seed_is_another_run():
    assert list(MixtureSampler(SMALL, num_steps=20, seed=1)) != list(MixtureSampler(SMALL, num_steps=20, seed=2))


def test_a_longer_run_begins_as_the_shorter_one():
    short, long = (list(MixtureSampler(SMALL, num_steps=steps, seed=1)) for steps in (20, 400))
    assert long[:20] == short


def test_a_pass_has_every_row_once_and_the_next_another_order():
    batches = list(MixtureSampler([MixtureComponent("a", 50, 10, 1)], num_steps=10, seed=1))
    first, second = rows_of(batches[:5], "a"), rows_of(batches[5:], "a")
    assert sorted(first) == [(0, row) for row in range(50)]
    assert sorted(second) == [(1, row) for row in range(50)]
    assert [row for _, row in first] != [row for _, row in second]


def test_ranks_part_a_pass_among_them():
    ranks = [
        rows_of(MixtureSampler([MixtureComponent("a", 12, 4, 1)], num_steps=1, seed=1, rank=rank, world_size=3), "a")
        for rank in range(3)
    ]
    assert sorted(row for rank in ranks for _, row in rank) == list(range(12))


def test_ranks_together_repeat_no_row_of_a_pass_and_drop_none():
    ranks = [MixtureSampler(SMALL, num_steps=60, seed=1, rank=rank, world_size=3) for rank in range(3)]
    drawn = sorted(row for rank in ranks for row in rows_of(rank, "a"))
    full_passes = drawn[-1][0]
    assert full_passes > 10
    assert drawn[: 7 * full_passes] == [(p, row) for p in range(full_passes) for row in range(7)]


def test_more_ranks_than_rows_work():
    batches = MixtureSampler([MixtureComponent("a", 2, 1, 1)], num_steps=2, seed=1, rank=4, world_size=5)
    assert [ref.pass_index for batch in batches for ref in batch] == [2, 4]


def rows_over_a_change(*parts, num_steps):
    """Draw a run in parts of (first step, world size); return the rows of dataset a of all of them."""
    ends = [first for first, _ in parts[1:]] + [num_steps]
    drawn = []
    for number, ((first, world_size), end) in enumerate(zip(parts, ends, strict=True)):
        for rank in range(world_size):
            at = {"start_step": first, "rank": rank, "world_size": world_size, "past": parts[:number]}
            drawn += rows_of(MixtureSampler(SMALL, num_steps=end, seed=9, **at), "a")
    return sorted(drawn)


def test_another_number_of_ranks_goes_on_where_the_old_one_stopped():
    """Nothing of the current pass is lost or repeated."""
    drawn = rows_over_a_change((0, 4), (13, 2), (20, 3), num_steps=40)
    full_passes = drawn[-1][0]
    assert full_passes > 10
    assert drawn[: 7 * full_passes] == [(p, row) for p in range(full_passes) for row in range(7)]


def test_a_batch_may_straddle_passes():
    batches = list(MixtureSampler([MixtureComponent("a", 5, 3, 1)], num_steps=4, seed=1))
    assert [ref.pass_index for ref in batches[1]] == [0, 0, 1]
    assert sorted(rows_of(batches, "a"))[:10] == [(p, row) for p in (0, 1) for row in range(5)]


def test_a_batch_larger_than_its_dataset_spans_several_passes():
    (batch,) = MixtureSampler([MixtureComponent("a", 2, 5, 1)], num_steps=1, seed=1)
    assert [ref.pass_index for ref in batch] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("step", [0, 1, 17, 99, 100])
def test_a_run_begun_at_a_later_step_is_the_rest_of_the_whole_run(step):
    whole = list(MixtureSampler(SMALL, num_steps=100, seed=5, rank=1, world_size=2))
    rest = MixtureSampler(SMALL, num_steps=100, seed=5, rank=1, world_size=2, start_step=step, past=[(0, 2)])
    assert len(rest) == 100 - step
    assert list(rest) == whole[step:]


def test_the_same_sampler_can_be_run_again():
    sampler = MixtureSampler(SMALL, num_steps=10, seed=5)
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": -1}, "datasets.a.sample_ratio should be 0 or more, not -1"),
        ({"ratio": float("nan")}, "datasets.a.sample_ratio should be 0 or more, not nan"),
        ({"batch_size": 0}, "datasets.a.batch_size should be 1 or more, not 0"),
        ({"num_rows": 0}, "datasets.a has no rows"),
    ],
)
def test_an_ingredient_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MixtureComponent(**{"name": "a", "num_rows": 1, "batch_size": 1, "ratio": 1} | change)


def test_ratios_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="at least one sample_ratio should be above 0"):
        MixtureSampler([MixtureComponent("a", 1, 1, 0)], num_steps=1, seed=0)


class Numbers:
    """Stands in for a dataset: row i of it is the text i and one random number; row 3 is broken."""

    def get(self, index, rng):
        if index == 3:
            raise ValueError("numbers[3]: cannot read 3.jpg: cut off")
        return Example(turns=(Turn(str(index), str(rng.random())),), id=f"numbers[{index}]")


class Careless:
    def get(self, index, rng):
        return {}["forgotten"]


def test_a_samples_draws_depend_on_seed_dataset_pass_and_row_alone():
    fetch = MixtureDataset({"x": Numbers(), "y": Numbers()}, seed=1).__getitems__
    refs = [SampleRef("x", 1, 0), SampleRef("x", 2, 0), SampleRef("x", 1, 1), SampleRef("y", 1, 0)]
    answers = [fetched.content.turns[0].answer for fetched in fetch(refs)]
    assert len(set(answers)) == 4
    assert [fetched.content.turns[0].answer for fetched in fetch(refs[::-1])] == answers[::-1]
    other_seed = MixtureDataset({"x": Numbers()}, seed=2).__getitems__(refs[:1])
    assert other_seed[0].content.turns[0].answer != answers[0]


def test_a_bad_file_becomes_a_bad_sample_in_its_place():
    refs = [SampleRef("numbers", 2, 0), SampleRef("numbers", 3, 0)]
    first, bad = MixtureDataset({"numbers": Numbers()}, seed=1).__getitems__(refs)
    assert isinstance(first.content, Example)
    assert (first.ref, bad.ref) == tuple(refs)
    assert bad.content == BadSample(id="numbers[3]", reason="cannot read 3.jpg: cut off")


def test_a_mistake_in_the_code_is_not_taken_for_bad_data():
    with pytest.raises(KeyError, match="forgotten"):
        MixtureDataset({"x": Careless()}, seed=1).__getitems__([SampleRef("x", 0, 0)])


def test_samples_are_the_same_with_and_without_workers():
    def run(num_workers):
        loader = DataLoader(
            MixtureDataset({"a": Numbers(), "b": Numbers()}, seed=3),
            batch_sampler=MixtureSampler(SMALL, num_steps=12, seed=3),
            num_workers=num_workers,
            collate_fn=list,
        )
        return list(loader)

    torch.set_num_threads(1)
    assert run(0) == run(2)
