"""TrainStep, called directly with a model of a few numbers."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from minigpt4.runners.strategy import Parallel
from tests.runners.in_process import NotFiniteOnce, train_step_of, update_of
from tests.runners.small_model import SmallModel, gradients, packed_text

ONE, TWO, THREE = [1, 2, 3], [2, 5], [4, 1, 7, 2]


def mean_gradient(*texts):
    """Return the gradient of the mean loss of texts in one batch, by PyTorch's own mean."""
    model = SmallModel()
    losses = torch.nn.functional.cross_entropy(
        torch.cat([model.table[torch.tensor(text[:-1])] + model.bias for text in texts]),
        torch.tensor([token for text in texts for token in text[1:]]),
    )
    losses.backward()
    return gradients(model), losses.item()


def assert_same(found, wanted):
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_the_gradient_of_one_micro_batch_is_that_of_its_mean_loss():
    model = SmallModel()
    result = train_step_of(model)(update_of([packed_text((0, ONE), (0, THREE))]))
    wanted, loss = mean_gradient(ONE, THREE)
    assert_same(gradients(model), wanted)
    assert result.losses.shape == (1, 1) and result.losses.item() == pytest.approx(loss)
    assert (result.is_finite, result.num_samples, result.num_tokens) == (True, 2, 7)


@pytest.mark.parametrize("packed", [False, True])
def test_accumulated_micro_batches_count_equally_whatever_their_sizes(packed):
    """The micro-batches have 2 and 4 targets; packed together, one sample goes through alone."""
    model = SmallModel()
    if packed:
        update = update_of([packed_text((0, ONE), (1, THREE)), packed_text((1, TWO))], num_steps=2, num_accumulated=2)
    else:
        update = update_of([packed_text((0, ONE))], [packed_text((0, THREE), (0, TWO))], num_accumulated=2)
    result = train_step_of(model)(update)
    (first, loss), (second, other_loss) = mean_gradient(ONE), mean_gradient(THREE, TWO)
    assert_same(gradients(model), {name: (first[name] + second[name]) / 2 for name in first})
    assert result.losses[:, 0].tolist() == pytest.approx([loss, other_loss])


def test_a_batch_of_no_samples_adds_no_gradient():
    model = SmallModel()
    empty = packed_text((0, ONE)).empty(torch.device("cpu"))
    result = train_step_of(model)(update_of([empty]))
    assert result.losses.tolist() == [[0.0]]
    assert all(gradient.abs().max() == 0 for gradient in gradients(model).values())


def as_rank(rank):
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)


def test_ranks_draw_other_dropout_masks():
    """All have the same sample and the same weights, and each its own masks."""
    losses = []
    for rank in (0, 1, 0):
        as_rank(rank)
        try:
            step = train_step_of(SmallModel(dropout=0.5).train())
            losses.append(step(update_of([packed_text((rank, THREE))])).losses.sum().item())
        finally:
            dist.destroy_process_group()
    assert losses[0] == losses[2] != losses[1]


def test_steps_draw_other_dropout_masks():
    step = train_step_of(SmallModel(dropout=0.5).train())
    losses = [step(update_of([packed_text((0, THREE))], first=first)).losses.item() for first in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


class Counting(Parallel):
    """Notes which backward passes send gradients, and how often they are averaged after."""

    def __init__(self, module):
        super().__init__(module)
        self.num_kept = self.num_reduced = 0

    def no_sync(self):
        self.num_kept += 1
        return nullcontext()

    def reduce_gradients(self):
        self.num_reduced += 1


def test_the_gradient_is_averaged_over_the_ranks_once_an_update():
    model = SmallModel()
    parallel = Counting(model)
    items = [[packed_text((0, text))] for text in (ONE, TWO, THREE)]
    train_step_of(model, parallel=parallel)(update_of(*items, num_accumulated=3))
    assert (parallel.num_kept, parallel.num_reduced) == (2, 1)


def test_updates_go_on_after_one_is_left_out(tmp_path):
    step = train_step_of(SmallModel(), folder=tmp_path, task=NotFiniteOnce(), max_skipped_steps=1)
    results = [step(update_of([packed_text((0, ONE))], first=first)) for first in range(3)]
    assert [result.is_finite for result in results] == [True, False, True]
    assert step.guard.num_skipped == 1


def test_one_loss_that_is_not_finite_leaves_the_whole_update_out(tmp_path):
    step = train_step_of(SmallModel(), folder=tmp_path, task=NotFiniteOnce(), max_skipped_steps=1)
    items = [[packed_text((0, text))] for text in (ONE, TWO, THREE)]
    assert not step(update_of(*items, num_accumulated=3)).is_finite


def test_without_permission_to_skip_the_guard_names_step_and_samples(tmp_path):
    step = train_step_of(SmallModel(), folder=tmp_path, task=NotFiniteOnce())
    for first in (4, 5):
        step(update_of([packed_text((0, ONE))], first=first))
    with pytest.raises(FloatingPointError, match=r"loss is inf at step 5; batch: row\[0\]"):
        step.guard.check()
