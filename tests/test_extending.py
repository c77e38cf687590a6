"""The files of docs/extending.md, run as they are printed there at tiny size."""

import importlib
import json
import random
import re
import sys

import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.datasets.preview import write_preview
from minigpt4.preflight.preflight import run_preflight
from tests.forked import run_script
from tests.plugins.parts import IMAGE_SIZE, TOWER, write_files
from tests.runners.in_process import runner_of
from tests.runners.tiny import ROOT, tiny_config

EVA, LLAMA = "minigpt4.models.vision.eva", "minigpt4.models.language.llama"
PAGE = ROOT / "docs/extending.md"
FILES = dict(re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL))
ROWS = [{"file": f"{n}.png", "colour": colour} for n, colour in enumerate(["Red", "Green", "Blue", "Red"])]
KINDS = ["colours", "counting", "letterbox", "qwen2", "timm_tower"]
COUNTS = [{"image": f"{n}.png", "thing": thing, "count": n} for n, thing in enumerate(["dogs", "cats", "dogs", "cats"])]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write the files of the page, four pictures and two files of rows; they lie in the working folder."""
    (tmp_path / "data/photos").mkdir(parents=True)
    for number in range(4):
        Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / f"data/photos/{number}.png")
    (tmp_path / "data/colours.json").write_text(json.dumps(ROWS))
    (tmp_path / "data/counting.json").write_text(json.dumps(COUNTS))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # another test may have put the folder of the same files there
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(ROOT / "tests/plugins")])
    forget()
    yield tmp_path
    forget()


def forget():
    for name in KINDS:
        sys.modules.pop(name, None)
    for table in registry._tables.values():
        for name in (*KINDS, "short_text", "timm"):
            table.pop(name, None)


def config_of(*files, **run):
    """Return the tiny model with the sections of YAML files of the page."""
    config = {**tiny_config(**run), "datasets": {"colours": {}}}
    plugins = []
    for file in files:
        sections = yaml.safe_load(FILES[file])
        plugins += sections.pop("run")["plugins"]
        for key, section in sections.items():
            config[key] = {**config["model"], **section} if key == "model" else section
    config["run"]["plugins"] = plugins
    return config


def load(project, config):
    (project / "all.yaml").write_text(yaml.safe_dump(config))
    return Config.load(project / "all.yaml", [f"run.output_dir={project}/out"])


def test_the_page_has_a_file_and_a_yaml_of_each_kind():
    assert sorted(FILES) == sorted(f"{kind}.{suffix}" for kind in KINDS for suffix in ("py", "yaml"))
    assert len(FILES["colours.py"].splitlines()) <= 28


@pytest.mark.parametrize("name", ["timm_tower.py", "qwen2.py"])
def test_the_tower_and_the_language_model_of_the_page_are_the_tested_ones(name):
    """tests/plugins trains, resumes, evaluates and exports with them."""
    text = (ROOT / "tests/plugins" / name).read_text(encoding="utf-8")
    assert FILES[name] == text
    assert len(text.splitlines()) <= 120


def test_the_dataset_of_the_page_is_checked_previewed_and_trained(project):
    config = config_of("colours.yaml")
    cfg = load(project, config)
    report = run_preflight(cfg)
    assert report.problems == []
    assert "https://example.org/colours.json" in report.table()
    page = write_preview(cfg, report.built(), num_samples=1).read_text(encoding="utf-8")
    assert "What colour is it?" in page or "Name the colour." in page
    runner = runner_of(project, config, "run.max_epoch=1", "run.iters_per_epoch=2")
    before = [parameter.clone() for parameter in runner.model.parameters() if parameter.requires_grad]
    assert runner.train()
    after = [parameter for parameter in runner.model.parameters() if parameter.requires_grad]
    assert not all(map(torch.equal, before, after))
    assert list((project / "out/job").glob("checkpoint_*.pth"))


@pytest.mark.parametrize("names", [["timm_tower"], ["qwen2"], ["timm_tower", "qwen2"]], ids="+".join)
def test_the_tower_and_the_language_model_of_the_page_are_trained_by_its_yaml(names, project):
    """The files of the weights are tiny ones in place of those that the YAML downloads."""
    config = config_of("colours.yaml", *(f"{name}.yaml" for name in names))
    files = write_files(project)
    if "timm_tower" in names:
        config["model"]["vit_options"] |= {**TOWER, "checkpoint_path": str(files / "tower.safetensors")}
        config["model"]["image_size"] = IMAGE_SIZE
    if "qwen2" in names:
        config["model"] |= {"llama_model": str(files / "qwen2"), "end_sym": None}
    config["model"]["ckpt"] = None
    runner = runner_of(project, config, "run.max_epoch=1", "run.iters_per_epoch=2")
    assert type(runner.model.vision_tower).__module__ == ("timm_tower" if "timm_tower" in names else EVA)
    assert type(runner.model.language_model).__module__ == ("qwen2" if "qwen2" in names else LLAMA)
    assert sys.modules[names[0]].__file__ == str(project / f"{names[0]}.py")
    assert not runner.train().stopped
    assert list((project / "out/job").glob("checkpoint_*.pth"))


def only(samples):
    return samples[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_data_worker_finds_the_plugin_however_it_starts(project, start):
    cfg = load(project, config_of("colours.yaml"))
    builder = registry.get_builder_class("colours")(cfg.datasets_cfg.colours, name="colours")
    dataset = builder.build_datasets()["train"]
    numbers = [(number, random.Random(number)) for number in range(4)]
    workers = DataLoader(
        Fetching(dataset), sampler=numbers, batch_size=1, collate_fn=only, num_workers=1, multiprocessing_context=start
    )
    assert [example.turns[0].answer for example in workers] == ["red", "green", "blue", "red"]


class Fetching:
    """A dataset whose index is a row with its generator."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index):
        return self.dataset.get(*index)


def test_the_processors_of_the_page_make_the_samples(project):
    cfg = load(project, config_of("colours.yaml", "letterbox.yaml"))
    builder = registry.get_builder_class("colours")(cfg.datasets_cfg.colours, name="colours")
    image = builder.build_datasets()["train"].get(0, random.Random(0)).images[0]
    assert image.shape == (3, 56, 56)
    assert torch.equal(image[:, 40:], image[:, 40:41, :1].expand(3, 16, 56))  # 60 x 40 fits as 56 x 37
    assert image[:, 0].std() > 0
    short = importlib.import_module("letterbox").ShortText.from_config(cfg.preprocess_cfg.text_processor.train)
    assert short(" ".join(["word"] * 30)).split() == ["word"] * 20


def test_the_benchmark_of_the_page_is_evaluated_by_the_command_of_the_page(project):
    config = config_of("counting.yaml", "letterbox.yaml")
    load(project, {**config, "datasets": {}})
    command = re.search(r"^python (eval_scripts/\S+) --cfg-path counting.yaml (.*)$", PAGE.read_text(), re.MULTILINE)
    script, words = command.groups()
    done = run_script([ROOT / script, "--cfg-path", "all.yaml", *words.split()], cwd=project)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 4 questions" in done.stdout
    answers = json.loads((project / "evaluation_results/counting.json").read_text())
    assert [answer["gt"] for answer in answers] == ["0", "1", "2", "3"]
    score = json.loads((project / "evaluation_results/results.json").read_text())["counting"]
    assert set(score["accuracy_by_type"]) == {"cats", "dogs"}
    assert score["image_processor"]["options"] == {"grey": 0}
