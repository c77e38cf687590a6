"""The CUDA path without a GPU: PyTorch's CUDA build on a null GPU, which counts launches and waits (nullcuda.c).

Everything is real but the numbers, which are all zero: no test here compares values. A driver process runs many cases,
as importing takes longer than a case; one of them alone, to look at it:

    python -m tests.null_gpu.shim /tmp/null
    LD_PRELOAD=/tmp/null/libnullcuda.so LD_LIBRARY_PATH=/tmp/null python -m tests.null_gpu.training plain

Bounds are what was counted with PyTorch 2.11 and 2.15, whichever is more. Who saves launches lowers them.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Cost(NamedTuple):
    """Launches of each layer of the language model, of each block of the vision encoder, and of all else."""

    layer: int
    block: int
    rest: int

    def of(self, *, layers: int, blocks: int) -> int:
        return layers * self.layer + blocks * self.block + self.rest


NUM_LAYERS, NUM_BLOCKS = 2, 2
UPDATE = {
    "plain": Cost(58, 11, 90),
    "float16": Cost(58, 11, 102),
    "look ahead": Cost(58, 11, 90),
    "deterministic": Cost(59, 11, 123),
    "together": Cost(120, 22, 226),  # two forwards
    "graphs": Cost(0, 0, 20),
    "skipping": Cost(58, 11, 99),
    "trained ViT": Cost(58, 81, 115),
    "recomputing": Cost(82, 11, 92),
}
"""Launches of an update of 4 examples with 4 images, 1,480 tokens and 128 targets; of four such draws in `together`."""
GRADIENT_NORM = 4
"""Launches of the norm of the gradient, which every log line has: two for all tensors, two for the norm of those."""
UPDATE_OF_RANKS = {"FSDP2": Cost(92, 11, 118), "DDP": Cost(62, 11, 93)}
MEAN_UPDATE = 2381
"""Launches of the plain update at real size, 32 layers and 39 blocks."""
TOKEN = {"generate": Cost(16, 0, 25), "sample": Cost(16, 0, 101)}
"""Launches of each further token of six answers."""
WAITS_A_TOKEN = 0
WAITS = {"generate": 2, "sample": 2, "beams": 24, "rank": 2, "chat": 10}
"""Waits of a whole call: six prompts about three images; the chat has one image and two questions.

A copy from or to pageable memory counts, and so does what waits for it.
"""

IN_STEPS = {"runners.train_step.check"}
"""The loss of the forward before."""
IN_STEPS_OF = {
    # dropout in a graph seeds its numbers on another stream, and waits for that one
    "graphs": IN_STEPS | {"runners.graphs._capture", "models.language.llama_layers._layout"},
    "skipping": {"runners.train_step.skips"},  # whether to leave an update out is known once its loss is
    "DDP": IN_STEPS | {"tasks.base_task.train_step"},  # DDP times its first ten iterations, and then every hundredth
}
IN_RUNS = ("models.attention.", "runners.meter.", "runners.train_state.state_dict")
"""The probe of the attention kernel, once a process; log lines; checkpoints."""

IN_FLOAT32 = {"models.lora._add_lora"}
"""Functions that multiply matrices in 32 bits on purpose."""

STEPS = [pytest.param("training", name) for name in UPDATE]
RANKS = [pytest.param("ranks", name) for name in UPDATE_OF_RANKS]
ANSWERS = [pytest.param("answers", name) for name in WAITS]


def functions(names):
    return {name.split(":")[0] for name in names}


def test_what_no_case_may_do_is_seen(found):
    facts = found("training", "self check")
    assert facts["on_cpu"] == {"index": 1} and len(facts["wide"]) == 1
    assert facts["launches"] == 3 and sum(facts["waits"].values()) == 3  # product, index, sum; copy, its wait, float


@pytest.mark.parametrize("driver", ["training", "ranks", "commands", "answers", "old_gpu", "second_gpu"])
def test_a_process_with_a_gpu_ends_without_an_error(ended, driver):
    assert ended[driver]["returncode"] == 0, ended[driver]["stderr"]


@pytest.mark.parametrize(("driver", "case"), STEPS + RANKS)
def test_a_step_waits_only_for_the_loss_of_the_forward_before(found, driver, case):
    assert functions(found(driver, case)["waits_in_steps"]) <= IN_STEPS_OF.get(case, IN_STEPS)


@pytest.mark.parametrize(("driver", "case"), STEPS + RANKS)
def test_a_run_waits_besides_only_to_probe_log_and_save(found, driver, case):
    besides = functions(found(driver, case)["waits"]) - IN_STEPS_OF.get(case, IN_STEPS)
    assert all(name.startswith(IN_RUNS) for name in besides), besides


@pytest.mark.parametrize(("driver", "case"), STEPS + RANKS + ANSWERS)
def test_no_operator_mixes_the_device_with_the_cpu(found, driver, case):
    assert found(driver, case)["on_cpu"] == {}


@pytest.mark.parametrize(("driver", "case"), STEPS + RANKS + ANSWERS)
def test_matrix_products_and_attention_have_16_bits(found, driver, case):
    facts = found(driver, case)
    assert facts["num_products"] > 50 and functions(facts["wide"]) <= IN_FLOAT32, facts["wide"]


@pytest.mark.parametrize(("driver", "case"), STEPS + RANKS)
def test_an_update_launches_no_more_than_it_did(found, driver, case):
    facts = found(driver, case)
    bound = {**UPDATE, **UPDATE_OF_RANKS}[case].of(layers=NUM_LAYERS, blocks=NUM_BLOCKS)
    assert facts["launches"] <= bound + GRADIENT_NORM, facts["by_operator"]


def test_a_layer_and_a_block_launch_no_more_than_they_did(found):
    plain, layer, block = (found("training", name) for name in ("plain", "one layer more", "one block more"))
    assert layer["launches"] - plain["launches"] <= UPDATE["plain"].layer
    assert block["launches"] - plain["launches"] <= UPDATE["plain"].block


def test_launches_of_a_mean_step_at_real_size(found):
    facts = found("training", "real size")
    assert 1000 < facts["launches"] <= MEAN_UPDATE, facts["by_operator"]


def test_train_with_data_workers_logs_and_saves(found):
    facts = found("commands", "train.py")
    assert facts["device"].startswith("cuda: NVIDIA H100")
    assert facts["logged"] == [0, 1, 2, 3] and facts["saved"] == ["checkpoint_0.pth", "checkpoint_1.pth"]


def test_train_waits_besides_only_to_load_and_save(found):
    loading_and_saving = ("runners.strategy.", "common.checkpoint.")
    besides = functions(found("commands", "train.py")["waits"]) - IN_STEPS_OF["graphs"]
    assert all(name.startswith(IN_RUNS + loading_and_saving) for name in besides), besides


def test_an_evaluation_asks_every_question(found):
    facts = found("commands", "eval_vqa.py")
    assert facts["num_questions"] == {"okvqa": 16, "iconvqa": 12} and facts["launches"] > 1000


@pytest.mark.parametrize("case", TOKEN)
def test_a_token_launches_no_more_than_it_did(found, case):
    assert found("answers", case)["a_token"]["launches"] <= TOKEN[case].of(layers=NUM_LAYERS, blocks=0)


def test_a_layer_launches_no_more_for_a_token_than_it_did(found):
    less, more = (found("answers", name)["a_token"] for name in ("generate", "generate, one layer more"))
    assert more["launches"] - less["launches"] <= TOKEN["generate"].layer


@pytest.mark.parametrize("case", TOKEN)
def test_a_token_waits_no_more_than_it_did(found, case):
    assert found("answers", case)["a_token"]["waits"] <= WAITS_A_TOKEN


@pytest.mark.parametrize("case", WAITS)
def test_an_answer_waits_no_more_than_it_did(found, case):
    waits = found("answers", case)["waits"]
    assert sum(waits.values()) <= WAITS[case], waits


def test_what_is_exported_is_read_back_and_compared_on_the_device(found):
    assert found("answers", "export")["differences"] == {"adapter": 0.0, "llama": 0.0}


def test_a_gpu_without_bfloat16_computes_in_float16(found):
    assert found("old_gpu", "bfloat16")["dtype"] == "torch.float16"


def test_on_the_second_gpu_the_loss_is_awaited_there(found):
    assert found("second_gpu", "cuda:1")["events"] == ["cuda:1"]
