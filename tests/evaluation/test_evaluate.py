"""`minigpt4.evaluate` in process: typed results of benchmarks in memory and of the YAML, whole or in part."""

import json
from contextlib import nullcontext

import pytest
from PIL import Image

from minigpt4 import evaluate
from minigpt4.common.config import Config
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.mistakes import Mistake, load_mistakes


class Sums(Benchmark):
    """Sums without a picture, beside one with a picture."""

    picture = None

    def questions(self):
        asked = [Question(id=f"s{n}", prompt=f"{n} + 1?", type="sum", truth=str(n + 1)) for n in range(3)]
        return [
            *asked,
            Question(id="p", prompt="grey?", image=(self.picture,), type="sight", truth="yes"),
        ]

    def export(self, question, answer):
        return {"question_id": question.id, "text": answer}

    def score_one(self, question, answer):
        return float(answer == question.truth)

    def is_valid(self, answer):
        return bool(answer)


class Calculator:
    """Answers every question about a picture with yes, and every sum right but the last."""

    def __init__(self):
        self.asked = []

    def merged(self):
        return nullcontext()

    def encode_images(self, images):
        assert images.shape == (1, 3, 448, 448)
        return images

    def generate(self, images, prompts, *, shown, **how):
        with_image = [prompt for prompt in prompts if "<ImageHere>" in prompt]
        assert len(shown) == len(with_image) and (images is not None) == bool(with_image)
        self.asked += prompts
        return [
            "yes" if "grey" in prompt else {"0 +": "1", "1 +": "2"}.get(prompt.split("[INST] ")[1][:3], "")
            for prompt in prompts
        ]


@pytest.fixture
def cfg(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"run: {{device: cpu, save_path: {tmp_path / 'results'}}}\n")
    return Config.load(path)


@pytest.fixture
def sums(tmp_path):
    Image.new("RGB", (3, 3)).save(tmp_path / "grey.png")
    benchmark = Sums(name="sums")
    benchmark.picture = tmp_path / "grey.png"
    return benchmark


def test_a_benchmark_in_memory_with_questions_of_text_alone_gives_typed_results(cfg, sums, tmp_path, capsys):
    results = evaluate(cfg, Calculator(), [sums])
    assert capsys.readouterr().out == ""
    result = results["sums"]
    assert result.accuracy == 75.0 and result.interval[0] < 75 < result.interval[1]
    assert result.counts_by_type == {
        "sight": {"num_questions": 1, "num_right": 1},
        "sum": {"num_questions": 3, "num_right": 2},
    }
    assert [(one.question.id, one.answer) for one in result.predictions] == [
        *(("s0", "1"), ("s1", "2"), ("s2", ""), ("p", "yes"))
    ]
    assert [(one.question_id, one.truth, one.image) for one in result.mistakes] == [("s2", "3", None)]
    saved = json.loads((tmp_path / "results" / "results.json").read_text())["sums"]
    assert saved["counts_by_type"] == result.counts_by_type and saved["num_questions"] == 4
    assert load_mistakes(tmp_path / "results" / "wrong.jsonl") == result.mistakes
    assert (tmp_path / "results" / "report.html").is_file() and not (tmp_path / "results" / "parts").exists()
    assert len((tmp_path / "results" / "sums.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("text", ["s0\np\n", '["p", "s0"]'])
def test_only_ids_asks_a_subset_that_replaces_nothing_of_the_whole(cfg, sums, tmp_path, text):
    evaluate(cfg, Calculator(), [sums])
    whole = (tmp_path / "results" / "sums.jsonl").read_bytes()
    (tmp_path / "ids.txt").write_text(text)
    sums.cfg.only_ids = str(tmp_path / "ids.txt")
    model = Calculator()
    result = evaluate(cfg, model, [sums])["sums_subset"]
    assert len(model.asked) == 2 and [one.question.id for one in result.predictions] == ["s0", "p"]
    assert (tmp_path / "results" / "sums.jsonl").read_bytes() == whole
    assert len((tmp_path / "results" / "sums_subset.jsonl").read_text().splitlines()) == 2
    saved = json.loads((tmp_path / "results" / "results.json").read_text())
    assert saved["sums"]["num_questions"] == 4
    assert (saved["sums_subset"]["num_questions"], saved["sums_subset"]["num_questions_in_all"]) == (2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s0\nx\n", r"sums: evaluation_datasets.sums.only_ids: .*ids.txt: 1 ids belong to no question: x"),
        ("s0\ns0\n", r"ids.txt: 1 ids come more than once: s0"),
        (" \n", r"ids.txt holds no id"),
        ("[]", r"ids.txt holds no id"),
        ("[1.5]", r"ids.txt: an id should be a number or a text, not 1.5"),
        ("[1", r"ids.txt: broken JSON"),
        (None, r"cannot read .*ids.txt"),
    ],
)
def test_ids_that_fit_no_question_are_named_with_their_file(cfg, sums, tmp_path, text, message):
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    sums.cfg.only_ids = str(tmp_path / "ids.txt")
    with pytest.raises(ValueError, match=message):
        evaluate(cfg, Calculator(), [sums])


def test_a_row_that_is_no_mistake_is_named(tmp_path):
    path = tmp_path / "wrong.jsonl"
    good = Mistake(benchmark="a", question_id=1, prompt="q", answer="b", right=0.0)
    assert Mistake.from_json(good.to_json()) == good
    path.write_text(json.dumps(good.to_json()) + "\n" + json.dumps({**good.to_json(), "right": "no"}) + "\n")
    with pytest.raises(ValueError, match=r"wrong.jsonl: line 2: 'right' should be a number"):
        load_mistakes(path)


def test_two_benchmarks_of_one_name_are_refused_before_the_model_is_asked(cfg, sums):
    other, calculator = Sums(name="sums"), Calculator()
    other.picture = sums.picture
    with pytest.raises(ValueError, match="sums: two benchmarks have this name"):
        evaluate(cfg, calculator, [sums, other])
    assert calculator.asked == []


def test_a_benchmark_that_is_named_twice_is_asked_once(cfg, sums):
    calculator = Calculator()
    assert list(evaluate(cfg, calculator, [sums, sums]).benchmarks) == ["sums"]
    assert len(calculator.asked) == 4


def test_an_evaluation_that_breaks_has_saved_neither_results_nor_mistakes(cfg, sums, tmp_path):
    class Broken(Sums):
        def score_one(self, question, answer):
            raise ZeroDivisionError

    broken = Broken(name="broken")
    broken.picture = sums.picture
    with pytest.raises(ZeroDivisionError):
        evaluate(cfg, Calculator(), [sums, broken], run_name="calculator")
    assert not (tmp_path / "results/results.json").exists() and not (tmp_path / "results/wrong.jsonl").exists()
    calculator = Calculator()
    evaluate(cfg, calculator, [sums], run_name="calculator")
    assert calculator.asked == []  # its shards were kept
    assert len(load_mistakes(tmp_path / "results/wrong.jsonl")) == 1


def test_an_unknown_name_is_refused_with_the_names_of_the_yaml_and_of_the_registry(cfg, tmp_path):
    calculator = Calculator()
    with pytest.raises(ValueError) as error:
        evaluate(cfg, calculator, ["gqq", "gqa"])
    first, second, last = str(error.value).split("\n  ")
    assert first == "benchmark gqq: evaluation_datasets has no benchmark; did you mean 'gqa'?"
    assert second == "benchmark gqa: evaluation_datasets has no benchmark"
    assert {"gqa", "mmbench", "refcoco+"} <= set(last.removeprefix("registered benchmarks: ").split(", "))
    (tmp_path / "two.yaml").write_text("evaluation_datasets: {hm: {eval_file_path: a}, vsr: {eval_file_path: b}}\n")
    with pytest.raises(ValueError, match=r"benchmark vsrr: evaluation_datasets has hm, vsr; did you mean 'vsr'\?"):
        evaluate(Config.load(tmp_path / "two.yaml"), calculator, ["vsrr"])
    assert calculator.asked == []


def test_a_benchmark_without_one_of_the_four_methods_is_refused_before_anything_is_asked():
    class Lacking(Benchmark):
        def questions(self):
            return []

    with pytest.raises(TypeError, match=r"export.*is_valid.*score_one"):
        Lacking(name="lacking")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"only": "answers"}, "only: expected 'infer', 'score' or None, got 'answers'"),
        ({"num_tries": -1}, "num_tries: expected at least 0, got -1"),
        ({"benchmarks": [3]}, "benchmarks: expected names and Benchmark objects, got 3"),
        (
            {"model": "a.pth"},
            "model: expected a model or a function that loads one, got 'a.pth'; a file is model.ckpt",
        ),
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused(tmp_path, arguments, said):
    path = tmp_path / "x.yaml"
    path.write_text("run: {device: cpu}\nevaluation_datasets: {vsr: {eval_file_path: vsr.jsonl}}\n")
    with pytest.raises(ValueError) as error:
        evaluate(Config.load(path), **arguments)
    assert str(error.value) == said
