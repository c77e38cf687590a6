import copy
import dataclasses
import pickle

import pytest
import torch

from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN, Batch


def batch():
    return Batch(
        images=torch.zeros(1, 3, 2, 2),
        input_ids=torch.tensor([1, IMAGE_TOKEN, 5, 1, 7]),
        labels=torch.tensor([IGNORE_INDEX, IGNORE_INDEX, 5, IGNORE_INDEX, 7]),
        position_ids=torch.tensor([0, 1, 2, 0, 1]),
        lengths=torch.tensor([3, 2]),
    )


def test_a_batch_knows_its_image_tokens_targets_and_examples():
    one = batch()
    assert one.image_positions.tolist() == [1]
    assert one.target_positions.tolist() == [2, 4]
    assert one.cu_seqlens.tolist() == [0, 3, 5]
    assert one.seq_lens == (3, 2)


@pytest.mark.parametrize("name", ["images", "weights", "labels", "target_positions"])
def test_nobody_changes_a_batch_after_it_is_made(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(batch(), name, torch.zeros(5))


def test_other_weights_make_another_batch_that_shares_the_tensors():
    one = batch()
    weights = torch.tensor([0.25, 0.75])
    other = one.with_fields(weights=weights)
    assert other.weights is weights
    assert (one.weights / one.divisor).tolist() == [0.5, 0.5]
    for field in dataclasses.fields(Batch):
        if field.name != "weights":
            assert getattr(other, field.name) is getattr(one, field.name), field.name


@pytest.mark.parametrize("copied", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_a_batch_survives_the_way_from_a_data_worker(copied):
    one, other = batch(), copied(batch())
    for field in dataclasses.fields(Batch):
        value, expected = getattr(other, field.name), getattr(one, field.name)
        assert torch.equal(value, expected) if isinstance(expected, torch.Tensor) else value == expected, field.name
