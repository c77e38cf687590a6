"""Writes the gallery page of a finished demo: a few questions with their pictures, answers, truths and boxes.

    make demo && python -m tools.gallery --demo . --out gallery.html

It takes rows at fixed places of the result files, so it shows wrong answers as often as they come.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.files import write_text
from minigpt4.common.registry import registry
from minigpt4.evaluation.benchmark import Benchmark, Prediction
from minigpt4.evaluation.benchmarks.scorers import percent
from minigpt4.evaluation.drawing import boxes_in, draw_boxes
from minigpt4.evaluation.submissions import read_predictions
from minigpt4.reports.page import environment

SHOWN: Mapping[str, tuple[str, int]] = {
    "seed": ("SEED", 2),
    "vsr": ("VSR", 1),
    "vizwiz": ("VizWiz", 1),
    "okvqa": ("OKVQA", 1),
    "hm": ("HM", 1),
    "refcoco_val": ("RefCOCO val", 2),
}
"""Benchmarks of the page, each with its title and the number of its questions."""
ENLARGED = 2
TRUE_COLOUR, GIVEN_COLOUR = "#00a0a8", "#d100d1"
"""Colours of the true box and of the model's box; no thing of the small world has them."""
TEMPLATE = Path(__file__).with_name("gallery.html.j2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One question of the page: its prompt has the question's text in the middle; `right` goes from 0 to 1."""

    title: str
    accuracy: float | None
    num_questions: int
    prompt: tuple[str, str, str]
    answer: str
    truth: str
    right: float
    picture: Image.Image

    @property
    def data_uri(self) -> str:
        """Return the picture as a data URI of a PNG, which keeps every pixel."""
        file = io.BytesIO()
        self.picture.save(file, format="PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_gallery(demo: Path, out: Path) -> Path:
    """Write the page of a demo's folder; return its path. Raises: ValueError where a file is missing or bad."""
    template = environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    colours = {"true_colour": TRUE_COLOUR, "given_colour": GIVEN_COLOUR}
    write_text(out, template.render(cards=list(cards(demo)), **colours))
    return out


def cards(demo: Path) -> Iterator[Card]:
    """Yield the cards of the page."""
    found = {benchmark.name: benchmark for benchmark in benchmarks(demo)}
    for name, (title, number) in SHOWN.items():
        benchmark = found[name]
        questions = benchmark.questions()
        answered = read_predictions(benchmark, questions, demo / "evaluation_results" / benchmark.result_file)
        rights = [benchmark.score_one(*one) or 0.0 for one in answered]
        texts = question_texts(benchmark)
        for row in places(len(answered), number):
            yield Card(
                title=title,
                accuracy=percent(rights),
                num_questions=len(questions),
                prompt=questions[row].prompt.partition(texts[row]),
                answer=answered[row].text,
                truth=questions[row].truth or "",
                right=rights[row],
                picture=drawn(benchmark, answered[row]),
            )


def benchmarks(demo: Path) -> Iterator[Benchmark]:
    """Yield the benchmarks of the page's entries; the YAML of a demo names files from the demo's folder."""
    entries = Config.load(demo / "sample_world/eval_configs/sample_world.yaml").evaluation_datasets_cfg
    for name in dict.fromkeys(shown.partition("_")[0] for shown in SHOWN):
        files: dict[str, Any] = {key: str(demo / entries[name][key]) for key in ("eval_file_path", "img_path")}
        yield from registry.get_benchmark_class(name).build(OmegaConf.merge(entries[name], files), name=name)


def question_texts(benchmark: Benchmark) -> list[str]:
    """Return the questions' texts as their file has them, without the words that the prompts add."""
    path = benchmark.eval_file / getattr(benchmark, "question_file", "")  # OKVQA's entry names a folder of files
    return [row[benchmark.text_key] for row in benchmark.rows(path)]


def places(num_rows: int, number: int) -> list[int]:
    """Return evenly spaced rows, each in the middle of its part of the file."""
    return [(2 * part + 1) * num_rows // (2 * number) for part in range(number)]


def drawn(benchmark: Benchmark, prediction: Prediction) -> Image.Image:
    """Return a question's picture, enlarged, with the true box (thick) and over it the boxes of the answer (thin)."""
    small = benchmark.open_image(prediction.question)
    small = draw_boxes(small, boxes_in(prediction.question.truth or ""), colours=(TRUE_COLOUR,))
    size = (small.width * ENLARGED, small.height * ENLARGED)
    large = small.resize(size, Image.Resampling.NEAREST)
    return draw_boxes(large, boxes_in(prediction.text), colours=(GIVEN_COLOUR,))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path(), help="the folder in which `minigpt4 demo` was run")
    parser.add_argument("--out", type=Path, default=Path("gallery.html"))
    args = parser.parse_args()
    print(write_gallery(args.demo, args.out))


if __name__ == "__main__":
    main()
