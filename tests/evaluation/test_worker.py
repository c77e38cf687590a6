import base64
import io
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.shards import fingerprint, read_shards
from minigpt4.evaluation.worker import InferenceWorker, finish
from tests.evaluation.one_run import run

ANSWERS = {f"<s>[INST] <Img><ImageHere></Img> q{i} [/INST]": f"<unk> a{i} " for i in range(7)}


def picture(grey: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (grey, grey, grey)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


class Seven(Benchmark):
    result_file = "seven.jsonl"

    def questions(self) -> list[Question]:
        return [Question(id=i, prompt=f"q{i}", image=picture(i)) for i in range(7)]

    def needs_resample(self, answer: str) -> bool:
        return "a3" in answer

    def export(self, question: Question, answer: Any) -> dict[str, Any]:
        return {"id": question.id, "answer": answer}

    def score_one(self, question: Question, answer: Any) -> float | None:
        return float(answer == "a1")

    def is_valid(self, answer: Any) -> bool:
        return bool(answer)


class Parrot:
    """Knows every answer; dies at the question `dies_at`."""

    def __init__(self, dies_at: str = "nowhere") -> None:
        self.dies_at = dies_at
        self.asked: list[str] = []
        self.seen: list[float] = []
        self.sampled: list[dict[str, Any]] = []

    def merged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += images[:, 0, 0, 0].tolist()
        return images

    def generate(self, images: torch.Tensor, prompts: list[str], *, shown: list[int], **how: Any) -> list[str]:
        assert len(shown) == len(prompts)
        if any(self.dies_at in prompt for prompt in prompts):
            raise RuntimeError("out of memory")
        if how.get("do_sample"):
            self.sampled.append(how)
            return ["b3"] if len(self.sampled) > 1 else ["still a3"]
        self.asked += [prompt.split()[2] for prompt in prompts]
        return [ANSWERS[prompt] for prompt in prompts]


def seven(batch_size: int = 2) -> Seven:
    cfg = OmegaConf.create({"eval_file_path": "x", "img_path": None, "batch_size": batch_size, "max_new_tokens": 20})
    return Seven(cfg, name="seven")


def processor(image: Image.Image) -> torch.Tensor:
    return torch.full((3, 1, 1), float(image.getpixel((0, 0))[0]))


RESULT = "".join(json.dumps({"id": i, "answer": f"a{i}"}) + "\n" for i in range(7))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 10])
def test_any_batch_size_gives_the_same_file(batch_size, tmp_path):
    model = Parrot()
    score = run(seven(batch_size), model, processor, save_path=tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "seven.jsonl").read_text() == RESULT
    assert model.asked == [f"q{i}" for i in range(7)]
    assert score is not None and score["accuracy"] == pytest.approx(100 / 7)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        *("seven.jsonl", "wrong.jsonl", "wrong_pictures", "predictions")
    }


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_any_number_of_ranks_gives_the_same_file(world_size, tmp_path):
    benchmark = seven()
    questions = benchmark.questions()
    asked = []
    for rank in range(world_size):
        model = Parrot()
        InferenceWorker(benchmark=benchmark, model=model, image_processor=processor).share(
            questions, tmp_path, "a run", rank=rank, world_size=world_size
        )
        asked.append(model.asked)
    assert sorted(name for names in asked for name in names) == [f"q{i}" for i in range(7)]
    assert max(map(len, asked)) - min(map(len, asked)) <= benchmark.cfg.batch_size
    finish(benchmark, questions, tmp_path, "a run")
    assert (tmp_path / "seven.jsonl").read_text() == RESULT


def test_a_run_that_died_continues_where_it_was(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        run(seven(), Parrot(dies_at="q4"), processor, save_path=tmp_path)
    assert not (tmp_path / "seven.jsonl").exists()
    model = Parrot()
    run(seven(), model, processor, save_path=tmp_path)
    assert model.asked == ["q4", "q5", "q6"]
    assert (tmp_path / "seven.jsonl").read_text() == RESULT


def test_a_broken_picture_loses_no_answer_of_the_pictures_before(tmp_path):
    class BrokenAtFour(Seven):
        def questions(self) -> list[Question]:
            known = super().questions()
            return [Question(id=4, prompt="q4", image="no picture") if one.id == 4 else one for one in known]

    cfg = seven(batch_size=1).cfg
    model = Parrot()
    with pytest.raises(ValueError):
        run(BrokenAtFour(cfg, name="seven"), model, processor, save_path=tmp_path)
    assert model.asked == ["q0", "q1", "q2", "q3"]
    model = Parrot()
    run(seven(batch_size=1), model, processor, save_path=tmp_path)
    assert model.asked == ["q4", "q5", "q6"]


def test_the_batch_of_a_line_cut_short_by_a_crash_is_asked_again(tmp_path):
    with pytest.raises(RuntimeError):
        run(seven(), Parrot(dies_at="q4"), processor, save_path=tmp_path)
    part = tmp_path / "parts" / "seven.rank0.jsonl"
    part.write_text(part.read_text()[:-3])
    model = Parrot()
    run(seven(), model, processor, save_path=tmp_path)
    assert model.asked == ["q2", "q3", "q4", "q5", "q6"]
    assert (tmp_path / "seven.jsonl").read_text() == RESULT


def test_a_run_that_died_continues_with_another_number_of_ranks(tmp_path):
    benchmark, name = seven(batch_size=1), "a run"
    questions = benchmark.questions()
    for rank in range(3):
        asker = InferenceWorker(benchmark=benchmark, model=Parrot(dies_at="q5"), image_processor=processor)
        try:
            asker.share(questions, tmp_path, name, rank=rank, world_size=3)
        except RuntimeError:
            assert rank == 2
    model = Parrot()
    InferenceWorker(benchmark=benchmark, model=model, image_processor=processor).share(
        questions, tmp_path, name, rank=0, world_size=1
    )
    assert model.asked == ["q5"]
    finish(benchmark, questions, tmp_path, name)
    assert (tmp_path / "seven.jsonl").read_text() == RESULT


def test_answers_of_another_checkpoint_are_not_taken_over(tmp_path):
    with pytest.raises(RuntimeError):
        run(seven(), Parrot(dies_at="q4"), processor, save_path=tmp_path, settings={"ckpt": "old.pth"})
    model = Parrot()
    run(seven(), model, processor, save_path=tmp_path, settings={"ckpt": "new.pth"})
    assert model.asked == [f"q{i}" for i in range(7)]


def test_rows_that_nobody_answered_are_an_error(tmp_path):
    benchmark = seven()
    questions = benchmark.questions()
    InferenceWorker(benchmark=benchmark, model=Parrot(), image_processor=processor).share(
        questions, tmp_path, "a run", rank=0, world_size=2
    )
    with pytest.raises(ValueError, match=r"3 of 7 rows have no answer .* the same folder"):
        finish(benchmark, questions, tmp_path, "a run")


def test_a_refused_answer_is_sampled_again_with_its_own_seed(tmp_path):
    seeds = []
    for batch_size in (1, 7):
        benchmark, model = seven(batch_size), Parrot()
        benchmark.num_tries = 5
        run(benchmark, model, processor, save_path=tmp_path)
        seeds.append([how.pop("seed") for how in model.sampled])
        assert model.sampled == [{"max_new_tokens": 20, "do_sample": True, "temperature": 1.0, "top_p": 0.9}] * 2
        assert json.loads((tmp_path / "seven.jsonl").read_text().splitlines()[3])["answer"] == "b3"
    assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]


def test_hostile_answers_come_back_from_part_files(tmp_path: Path):
    hostile = ["=1+1", "a\nb", "\x00\x1b", "x" * 10_000, "a\u2028\ud800b", '"', "{"]
    model = Parrot()
    model.generate = lambda images, prompts, **_: [hostile[int(p.split()[2][1])] for p in prompts]  # type: ignore
    run(seven(), model, processor, save_path=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "seven.jsonl").read_text().split("\n")[:-1]]
    assert [row["answer"] for row in rows] == hostile


def test_a_fingerprint_follows_prompts_and_settings():
    questions = seven().questions()
    names = {fingerprint(q, s) for q in (questions, questions[1:]) for s in ({"a": 1}, {"a": 2})}
    assert len(names) == 4
    assert fingerprint(questions, {"a": 1, "b": 2}) == fingerprint(questions, {"b": 2, "a": 1})


def test_parts_of_nothing_are_empty(tmp_path):
    assert read_shards(tmp_path, "seven", "a run") == {}


def test_an_image_is_encoded_once_however_many_questions_it_has(tmp_path):
    class Shared(Seven):
        def questions(self) -> list[Question]:
            return [Question(id=i, prompt=f"q{i}", image=picture(i % 3)) for i in range(7)]

    for batch_size in (1, 2, 3, 10):
        benchmark = Shared(seven(batch_size).cfg, name="seven")
        model = Parrot()
        run(benchmark, model, processor, save_path=tmp_path)
        assert sorted(model.seen) == [0.0, 1.0, 2.0]
        assert sorted(model.asked) == [f"q{i}" for i in range(7)]
        assert (tmp_path / "seven.jsonl").read_text() == RESULT


def test_each_question_is_shown_its_own_image(tmp_path):
    class Shown(Parrot):
        def generate(self, images: torch.Tensor, prompts: list[str], *, shown: list[int], **how: Any) -> list[str]:
            return [f"{images[place, 0, 0, 0]:.0f}" for place in shown]

    class Doubled(Seven):
        def questions(self) -> list[Question]:
            return [Question(id=i, prompt="q" * (9 - i), image=picture(i // 2)) for i in range(7)]

    for batch_size in (1, 3, 5):
        run(Doubled(seven(batch_size).cfg, name="seven"), Shown(), processor, save_path=tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "seven.jsonl").read_text().splitlines()]
        assert [row["answer"] for row in rows] == ["0", "0", "1", "1", "2", "2", "3"]
