import torch

from minigpt4.common.seeds import derive_rng, derive_seed, seed_torch


def test_a_seed_is_a_function_of_its_parts_alone():
    assert derive_seed(42, "gqa", 0, 17) == 6502185055304843367
    assert len({derive_seed(42, "gqa", p, r) for p in range(10) for r in range(100)}) == 1000


def test_parts_do_not_run_together():
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_torch_draws_the_same_after_the_same_seed():
    seed_torch("step", 42, 0, 7)
    first = torch.rand(3)
    seed_torch("step", 42, 0, 7)
    assert torch.equal(first, torch.rand(3))


def test_rngs_of_the_same_parts_draw_the_same():
    assert [derive_rng(1, "a").random() for _ in range(2)] == [derive_rng(1, "a").random()] * 2
