import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minigpt4.chat import Session, make_parser
from tests.models.golden_model import ASSETS
from tests.test_inference import YAML

ANSWERS = {"where?": "<p>a cat</p> {<10><20><60><70>}", "what?": "a caf\ufffd|a caf\u00e9 here"}


class Talker:
    """Answers from a list, letter by letter or in the pieces it is given."""

    pictures: str = "as_seen"

    def chat(self, image: Path | None = None) -> "Talker":
        if image is not None and not Path(image).is_file():
            raise ValueError(f"cannot read the picture {image}")
        self.turns: list[str] = []
        return self

    def ask(self, question: str, **how: Any) -> Iterator[str]:
        self.how = how
        yield from ANSWERS[question].split("|")
        self.turns.append(question)


def session(tmp_path: Path, *words: str) -> tuple[Session, Talker]:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "cat.png")
    talker = Talker()
    image = ["--image", str(tmp_path / "cat.png")]
    args: argparse.Namespace = make_parser().parse_args(
        ["--cfg-path", "x", *image, "--save-dir", str(tmp_path / "drawn"), *words]
    )
    return Session(talker, args), talker  # type: ignore[arg-type]


def test_an_answer_with_boxes_leaves_a_picture_with_them(tmp_path, capsys):
    talk, _ = session(tmp_path)
    assert talk.take("where?")
    saved = tmp_path / "drawn" / "cat_boxes_1.png"
    assert capsys.readouterr().out == f"<p>a cat</p> {{<10><20><60><70>}}\n(1 boxes drawn in {saved})\n"
    assert Image.open(saved).getpixel((60, 50)) != (255, 255, 255)
    assert Image.open(tmp_path / "cat.png").getpixel((60, 50)) == (255, 255, 255)


@pytest.mark.parametrize(("pictures", "size"), [("as_seen", (50, 100)), ("as_stored", (100, 50))])
def test_boxes_are_drawn_on_the_picture_that_the_model_saw(tmp_path, pictures, size):
    talk, talker = session(tmp_path)
    talker.pictures = pictures
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 50), "white").save(tmp_path / "phone.jpg", exif=exif)
    talk.take(f"/image {tmp_path}/phone.jpg")
    talk.take("where?")
    assert Image.open(tmp_path / "drawn" / "phone_boxes_1.png").size == size


def test_half_a_character_is_not_shown(tmp_path, capsys):
    talk, _ = session(tmp_path)
    talk.take("what?")
    assert capsys.readouterr().out == "a caf\u00e9 here\n"
    assert not (tmp_path / "drawn").exists()


def test_commands_change_the_picture_begin_again_and_end(tmp_path, capsys):
    talk, talker = session(tmp_path)
    talk.take("where?")
    assert talk.take("/new") and talker.turns == []
    assert talk.take("/image none.png") and talk.take("") and talk.take("/what")
    assert "! cannot read the picture none.png\n/image PATH" in capsys.readouterr().out
    shutil.copy(tmp_path / "cat.png", tmp_path / "my dog.png")
    assert talk.take(f"/image {tmp_path / 'my dog.png'}") and talk.take("where?")
    assert (tmp_path / "drawn" / "my dog_boxes_1.png").is_file()
    assert not talk.take("/quit")


@pytest.mark.parametrize(
    ("words", "how"),
    [([], {}), (["--temperature", "0.6"], {"do_sample": True, "temperature": 0.6, "top_p": 0.9})],
)
def test_chat_is_greedy_unless_a_temperature_is_given(words, how, tmp_path):
    talk, talker = session(tmp_path, *words)
    talk.take("what?")
    assert talker.how == {"max_new_tokens": 300, **how}


def test_several_turns_in_a_terminal(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(YAML)
    lines = iter(["[vqa] what is this?", "and that?"])

    def read(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    from minigpt4 import chat

    image = str(ASSETS / "images" / "img0.png")
    words = ["chat", "--cfg-path", str(tmp_path / "tiny.yaml"), "--image", image, "--max-new-tokens", "4"]
    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("sys.argv", [*words, "--device", "cpu", "--save-dir", str(tmp_path)])
    chat.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("/image PATH") and len([line for line in said[1:] if line]) >= 2


def test_missing_files_are_named_before_the_first_question(tmp_path, monkeypatch):
    from minigpt4 import chat

    (tmp_path / "tiny.yaml").write_text(YAML)
    words = ["chat", "--cfg-path", str(tmp_path / "tiny.yaml"), "--device", "cpu", "--image", "none.png"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=r"chat: cannot read the picture none\.png"):
        chat.main()
