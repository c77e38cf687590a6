"""`minigpt4.evaluate` in a program: it leaves the process and the model as they were, and mixes up no answers."""

import json
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import yaml

from minigpt4 import evaluate
from minigpt4.api import Assistant, build_model
from minigpt4.common.config import Config
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.evaluator import choose, image_processor, prepare
from minigpt4.evaluation.worker import InferenceWorker, finish
from tests.process_state import assert_same, process_state, set_torchrun
from tests.runners.tiny import DATA, tiny_config

FILES = {
    "seed": {"eval_file_path": "evaluation_dataset/seed/seed-bench-image.jsonl", "img_path": "evaluation_dataset/seed"},
    "hm": {
        "eval_file_path": "evaluation_dataset/hateful_meme/dev.jsonl",
        "img_path": "evaluation_dataset/hateful_meme/hm_images",
    },
}


@pytest.fixture(autouse=True)
def where_the_data_lie(monkeypatch):
    monkeypatch.chdir(DATA)


@pytest.fixture
def tiny(tmp_path):
    """Return the config of the tiny model with two benchmarks, whose results go to `tmp_path`."""

    def make(folder="results", *options):
        config = {**tiny_config(), "datasets": {}, "evaluation_datasets": FILES}
        config["preprocess"] = {"vis_processor": {"eval": {"image_size": 56}}}
        config["run"] = {"device": "cpu", "save_path": str(tmp_path / folder)}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
        return Config.load(tmp_path / "tiny.yaml", options)

    return make


@pytest.fixture
def torchrun(monkeypatch):
    set_torchrun(monkeypatch)


def answers_of(result):
    return {one.question.id: one.answer for one in result.predictions}


def test_it_is_called_twice_and_from_a_thread_and_leaves_the_process_as_it_was(tiny, capfd):
    cfgs, found = [tiny(folder) for folder in ("first", "second", "third")], []

    def ask(cfg):
        found.append(answers_of(evaluate(cfg, benchmarks=["hm"])["hm"]))

    before = process_state()
    ask(cfgs[0])
    assert_same(before, process_state())
    torch.manual_seed(123)
    before = process_state()
    ask(cfgs[1])
    thread = threading.Thread(target=ask, args=(cfgs[2],))
    thread.start()
    thread.join()
    assert_same(before, process_state())
    assert found[0] == found[1] == found[2] and len(set(found[0].values())) > 1
    assert capfd.readouterr().out == ""


def test_an_evaluation_that_fails_leaves_the_process_as_it_was(tiny):
    cfg = tiny("results", "evaluation_datasets.hm.img_path=nowhere")
    before = process_state()
    with pytest.raises(ValueError, match="hm: 16 questions have no image"):
        evaluate(cfg, benchmarks=["hm"])
    assert_same(before, process_state())


def test_the_process_group_of_torchrun_is_joined_and_left(tiny, torchrun):
    cfg = tiny()
    before = process_state()
    evaluate(cfg, Words(), benchmarks=["hm"])
    assert_same(before, process_state())


def test_a_process_group_that_the_caller_joined_stays(tiny, torchrun):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        evaluate(tiny(), Words(), benchmarks=["hm"])
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


class Words(torch.nn.Module):
    """Answers with its only weight; dies at the question `dies_at`; its mode may not be changed."""

    def __init__(self, weight=1.0, dies_at="nowhere"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight]))
        self.dies_at, self.num_asked = dies_at, 0

    def train(self, mode=True):
        raise AssertionError("the mode of the model was changed")

    def merged(self):
        return nullcontext()

    def encode_images(self, images):
        return images

    def generate(self, images, prompts, **how):
        if any(self.dies_at in prompt for prompt in prompts):
            raise RuntimeError("out of memory")
        self.num_asked += len(prompts)
        return [f"{self.weight.item():g}" for _ in prompts]


def test_the_mode_of_a_model_is_never_changed(tiny):
    model = Words()
    evaluate(tiny(), model, ["hm"])
    assert model.training and model.num_asked == 16


def test_a_loaded_model_keeps_its_modes_and_weights_and_answers_as_the_one_of_the_yaml(tiny):
    model = build_model(tiny(), torch.device("cpu"), torch.float32)
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = answers_of(evaluate(tiny("given"), model, ["hm"])["hm"])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert found == answers_of(evaluate(tiny("loaded"), build_model, ["hm"])["hm"])


def test_a_thread_that_uses_the_same_assistant_gets_the_same_answers(tiny):
    cfg = tiny()
    model = build_model(cfg, torch.device("cpu"), torch.float32)
    assistant, expected = Assistant(model, None), model.generate(None, ["<s>[INST] a [/INST]"], max_new_tokens=4)
    found, is_done = [], threading.Event()

    def talk():
        while not is_done.is_set():
            found.append(model.generate(None, ["<s>[INST] a [/INST]"], max_new_tokens=4))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        evaluate(cfg, assistant, ["hm"])
    finally:
        is_done.set()
        thread.join()
    assert found and all(answers == expected for answers in found)


class Three(Benchmark):
    """Three questions of text alone, one in each batch."""

    def questions(self):
        return [Question(id=number, prompt=f"q{number}", truth="1") for number in range(3)]

    def export(self, question, answer):
        return {"question_id": question.id, "text": answer}

    def score_one(self, question, answer):
        return float(answer == question.truth)

    def is_valid(self, answer):
        return answer.isdigit()


def three():
    benchmark = Three(name="three")
    benchmark.cfg.batch_size = 1
    return benchmark


def stopped(tiny, model, **options):
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(tiny(), model, [three()], **options)


def test_answers_of_a_model_with_other_weights_are_not_reused(tiny):
    stopped(tiny, Words(1.0, dies_at="q2"))
    other, same = Words(2.0), Words(1.0)
    assert set(answers_of(evaluate(tiny(), other, [three()])["three"]).values()) == {"2"}
    assert other.num_asked == 3
    stopped(tiny, Words(1.0, dies_at="q2"))
    assert set(answers_of(evaluate(tiny(), same, [three()])["three"]).values()) == {"1"}
    assert same.num_asked == 1


def test_a_run_name_says_which_answers_are_reused_and_is_in_the_results(tiny, tmp_path):
    stopped(tiny, Words(1.0, dies_at="q2"), run_name="mine")
    model = Words(2.0)
    evaluate(tiny(), model, [three()], run_name="mine")
    assert model.num_asked == 1
    assert json.loads((tmp_path / "results/results.json").read_text())["three"]["run_name"] == "mine"


def test_a_model_without_trainable_weights_is_asked_everything_in_each_call(tiny):
    frozen = Words(1.0, dies_at="q2").requires_grad_(False)
    stopped(tiny, frozen)
    frozen.dies_at = "nowhere"
    evaluate(tiny(), frozen, [three()])
    assert frozen.num_asked == 2 + 3


@pytest.mark.parametrize("name", ["seed", "hm"])
def test_a_subset_has_the_predictions_of_its_rows_in_the_whole(tiny, tmp_path, name):
    whole = answers_of(evaluate(tiny("whole"), benchmarks=[name])[name])
    ids = list(whole)[1::3]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
    cfg = tiny("part", f"evaluation_datasets.{name}.only_ids={tmp_path / 'ids.txt'}")
    part = answers_of(evaluate(cfg, benchmarks=[name])[f"{name}_subset"])
    assert part == {number: whole[number] for number in ids} and len(set(part.values())) > 1
    assert shared_by_two_ranks(cfg, name, tmp_path / "shared") == part


def shared_by_two_ranks(cfg, name, folder):
    """Return what two ranks answer to a subset, one after the other in this process."""
    [item] = prepare(choose(cfg, [name]), save_path=folder)
    model = build_model(cfg, torch.device("cpu"), torch.float32)
    for rank in range(2):
        worker = InferenceWorker(benchmark=item.benchmark, model=model, image_processor=image_processor(cfg))
        with model.merged():
            worker.share(item.questions, folder, "a run", rank=rank, world_size=2)
    return {one.question.id: one.answer for one in finish(item.benchmark, item.questions, folder, "a run")}
