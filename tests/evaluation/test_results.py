import json

import pytest

from minigpt4.common.config import Config
from minigpt4.evaluation.benchmark import Prediction, Question
from minigpt4.evaluation.report import results_table
from minigpt4.evaluation.results import read_results, settings_of
from minigpt4.evaluation.shards import fingerprint, read_shard, save_predictions, saved_predictions, shard_writer
from minigpt4.evaluation.submissions import read_predictions

CHANGES = {"vsr": {"eval_file_path": "evaluation_dataset/vsr/test.jsonl"}}
NAMES = ["seed", "mmbench", "okvqa", "vizwiz", "vsr", "gqa", "hm", "refcoco"]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_comes_back_from_its_entry_and_scores_the_same(name, make_benchmarks, model_answers, tmp_path):
    benchmark = make_benchmarks(name, **CHANGES.get(name, {}))[0]
    questions = benchmark.questions()
    given = model_answers["refcoco_first_pass"][benchmark.name] if name == "refcoco" else model_answers[name]
    answers = [benchmark.clean(answer) for answer in given]
    answered = [Prediction(*pair) for pair in zip(questions, answers, strict=True)]
    save_predictions(tmp_path, benchmark, answered)
    assert saved_predictions(tmp_path, benchmark, questions) == answered
    read = read_predictions(benchmark, questions, tmp_path / benchmark.result_file)
    assert benchmark.score(read) == benchmark.score(answered)
    if name != "hm":  # where yes and no are saved as 1 and 0
        assert [answer for _, answer in read] == answers


@pytest.mark.parametrize("name", ["seed", "okvqa", "vizwiz", "gqa", "vsr"])
def test_a_file_of_the_published_tool_is_read(name, golden, make_benchmarks, tmp_path):
    [benchmark] = make_benchmarks(name, **CHANGES.get(name, {}))
    recorded = golden(name)
    (tmp_path / recorded["saved_file"]).write_text(recorded["saved_text"])
    read = read_predictions(benchmark, benchmark.questions(), tmp_path / recorded["saved_file"])
    assert len(read) == len(recorded["items"])


def test_a_file_about_other_questions_is_refused(make_benchmarks, golden, tmp_path):
    [benchmark] = make_benchmarks("seed")
    questions, lines = benchmark.questions(), golden("seed")["saved_text"].splitlines(keepends=True)
    path = tmp_path / "seed.jsonl"
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"seed.jsonl holds 29 answers to 30 questions"):
        read_predictions(benchmark, questions, path)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ValueError, match=r"seed.jsonl, row 0 answers another question: its question_id is \d+, expect"):
        read_predictions(benchmark, questions, path)
    path.write_text("".join(['{"question_id": 1}\n', *lines[1:]]))
    with pytest.raises(ValueError, match=r"seed.jsonl, row 0: no answer in {'question_id': 1}"):
        read_predictions(benchmark, questions, path)


def test_answers_of_another_image_processor_are_another_run(tmp_path):
    """Part files hold the name of their run, so answers made at 224 pixels are not taken for those at 448."""
    path = tmp_path / "x.yaml"
    path.write_text("run: {device: cpu}\n")
    names = {
        fingerprint([Question(id=1, prompt="What is this?", image="")], settings_of(Config.load(path, options)))
        for options in (
            [],
            ["preprocess.vis_processor.eval.image_size=224"],
            ["preprocess.vis_processor.eval.mean=[0.5,0.5,0.5]"],
            ["model.lora_alpha=32"],
            ["model.prompt_template='[INST] {} [/INST]'"],  # what an unset one means
        )
    }
    assert len(names) == 4


def test_a_damaged_results_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results.json: broken JSON at byte 1: .*; remove or mend this file"):
        read_results(tmp_path)


def test_the_table_shows_the_published_numbers_beside_the_measured_ones():
    scored = {"accuracy": 50.0, "interval": [40.0, 60.0], "num_questions": 9, "num_unanswered": 1, "num_unparsed": 2}
    table = results_table({"seed": {**scored, "seconds": 1.25}, "gqa": scored, "vsr": {"seconds": 3.0}})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert lines[2:] == [
        ["seed", "50.00", "40.00 .. 60.00", "9", "1", "2", "1.2", "49.21", "63.83"],
        ["gqa", "50.00", "40.00 .. 60.00", "9", "1", "2", "-", "-", "-"],
    ]


def test_every_score_has_an_interval_around_it(make_benchmarks, model_answers):
    for name in ("seed", "okvqa", "vizwiz", "hm"):
        [benchmark] = make_benchmarks(name)
        answers = [benchmark.clean(answer) for answer in model_answers[name]]
        score = benchmark.score([Prediction(*pair) for pair in zip(benchmark.questions(), answers, strict=True)])
        low, high = score["interval"]
        assert 0 <= low < score["accuracy"] < high <= 100
        assert json.loads(json.dumps(score)) == score


def test_a_run_that_was_begun_before_processors_had_free_options_goes_on(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("run: {device: cpu}\n")
    settings = settings_of(Config.load(path))["image_processor"]
    assert list(settings) == ["name", "image_size", "mean", "std", "prompt", "max_words"]
    with_options = Config.load(path, ["preprocess.vis_processor.eval.options={grey: 0}"])
    assert settings_of(with_options)["image_processor"]["options"] == {"grey": 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("[0,", "[99,"),
        lambda text: text.replace("[1, ", '[1, "no", '),
        lambda text: "".join(text.splitlines(keepends=True)[:-1]),
        lambda text: text + "garbage\n",
        lambda text: text + "\x00\xff",
    ],
    ids=["row", "answer", "removed", "garbage", "binary"],
)
def test_predictions_that_were_changed_by_hand_are_refused(make_benchmarks, model_answers, tmp_path, change):
    [benchmark] = make_benchmarks("vsr", **CHANGES["vsr"])
    questions = benchmark.questions()
    save_predictions(
        tmp_path, benchmark, [Prediction(*one) for one in zip(questions, model_answers["vsr"], strict=True)]
    )
    path = tmp_path / "predictions/vsr.jsonl"
    path.write_text(change(path.read_text()), encoding="latin-1")
    with pytest.raises(ValueError, match=rf"vsr: {path} was changed .*; remove it, and change {tmp_path}/vsr.json ins"):
        saved_predictions(tmp_path, benchmark, questions)


@pytest.mark.parametrize("text", ["", "garbage\n", '{"run": "another"}\n[0, "yes"]\n'])
def test_predictions_of_another_run_or_version_are_left_out(make_benchmarks, model_answers, tmp_path, text):
    [benchmark] = make_benchmarks("vsr", **CHANGES["vsr"])
    questions = benchmark.questions()
    save_predictions(
        tmp_path, benchmark, [Prediction(*one) for one in zip(questions, model_answers["vsr"], strict=True)]
    )
    (tmp_path / "predictions/vsr.jsonl").write_text(text)
    assert saved_predictions(tmp_path, benchmark, questions) == []


def test_a_shard_ends_before_a_line_that_a_crash_damaged(tmp_path):
    for damaged in (b"gar\x00bage\n", b"\xff\n", b"[7]\n", b"3\n", b'[1, "cut'):
        with shard_writer(tmp_path, "vsr", "run", rank=0) as write:
            write({0: "yes"})
        path = tmp_path / "parts/vsr.rank0.jsonl"
        path.write_bytes(path.read_bytes() + damaged + b'[2, "no"]\n')
        assert read_shard(path, "run") == {0: "yes"}
        path.unlink()
