"""Modules outside of the package that register what a YAML file names."""

import functools
import importlib
import logging
import subprocess
import sys
import textwrap

import pytest

from minigpt4.common import config, plugins
from minigpt4.common.config import Config
from minigpt4.common.registry import Registry, registry

NOTHING = "run: {plugins: [%s]}\n"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Return a function that writes modules beside x.yaml; what they registered, g_.., is forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "settings").mkdir()

    def write(yaml, **modules):
        for name, text in modules.items():
            (tmp_path / "settings" / f"{name}.py").write_text(textwrap.dedent(text))
        path = tmp_path / "settings" / "x.yaml"
        path.write_text(yaml)
        return path

    yield write
    for names in (sys.modules, *registry._tables.values()):
        for name in [name for name in names if name.startswith("g_")]:
            del names[name]


def mistakes(path, *options):
    with pytest.raises(ValueError) as error:
        Config.load(path, options)
    return str(error.value)


SHADES = """
    from minigpt4.common.registry import registry
    from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder

    @registry.register_builder("g_shades")
    class ShadesBuilder(BaseDatasetBuilder):
        DATASET_CONFIG_DICT = {"default": %s}
"""
DICT = '{"build_info": {"ann_path": "shades.json"}, "sample_ratio": 5}'


def test_a_module_beside_the_yaml_registers_what_the_yaml_names(beside):
    path = beside("run: {plugins: [g_first]}\ndatasets: {g_shades: {batch_size: 3}}\n", g_first=SHADES % DICT)
    shades = Config.load(path).datasets_cfg.g_shades
    assert (shades.build_info.ann_path, shades.sample_ratio, shades.batch_size) == ("shades.json", 5, 3)


def test_a_module_of_the_working_folder_is_found_too(beside, tmp_path, monkeypatch):
    path = beside("datasets: {g_shades: {}}\n", g_second=SHADES % DICT)
    (tmp_path / "work").mkdir()
    (path.parent / "g_second.py").rename(tmp_path / "work" / "g_second.py")
    monkeypatch.chdir(tmp_path / "work")
    assert Config.load(path, ["run.plugins=[g_second]"]).run_cfg.plugins == ["g_second"]


def test_a_dataset_has_its_defaults_in_a_yaml_beside_its_module(beside):
    path = beside("run: {plugins: [g_third]}\ndatasets: {g_shades: {}}\n", g_third=SHADES % '"shades.yaml"')
    (path.parent / "shades.yaml").write_text("datasets: {g_shades: {build_info: {ann_path: a.json}}}\n")
    assert Config.load(path).datasets_cfg.g_shades.build_info.ann_path == "a.json"
    (path.parent / "shades.yaml").write_text("datasets: {another: {}}\n")
    config._defaults.cache_clear()
    assert "g_shades: shades.yaml, the file of its defaults, has no section datasets.g_shades" in mistakes(path)


def test_a_dataset_without_defaults_takes_all_from_the_yaml(beside):
    module = (SHADES % "None").replace('        DATASET_CONFIG_DICT = {"default": None}', "        pass")
    path = beside("run: {plugins: [g_bare]}\ndatasets: {g_shades: {build_info: {ann_path: a.json}}}\n", g_bare=module)
    assert Config.load(path).datasets_cfg.g_shades.build_info.ann_path == "a.json"


def test_a_plugin_may_register_every_kind_that_a_yaml_names(beside):
    module = """
        from minigpt4.common.registry import registry
        from minigpt4.evaluation.benchmark import Benchmark

        @registry.register_benchmark("g_quiz")
        class Quiz(Benchmark):
            DEFAULT_CONFIG = {"eval_file_path": "quiz.json", "max_new_tokens": 7}
            questions = export = score_one = is_valid = print

        for kind in ("task", "runner", "lr_scheduler", "processor", "model"):
            getattr(registry, f"register_{kind}")(f"g_{kind}")(type("Mine", (), {}))
    """
    yaml = """
        run: {plugins: [g_kinds], task: g_task, runner: g_runner, lr_sched: g_lr_scheduler}
        model: {arch: g_model}
        preprocess: {vis_processor: {eval: {name: g_processor, options: {crop: 0.5}}}}
        evaluation_datasets: {g_quiz: {batch_size: 2}}
    """
    cfg = Config.load(beside(textwrap.dedent(yaml), g_kinds=module))
    quiz = cfg.evaluation_datasets_cfg.g_quiz
    assert (quiz.eval_file_path, quiz.max_new_tokens, quiz.batch_size) == ("quiz.json", 7, 2)
    assert cfg.preprocess_cfg.vis_processor.eval.options == {"crop": 0.5}


def test_a_module_that_is_not_there_is_named_with_the_nearest(beside, tmp_path, monkeypatch):
    path = beside(NOTHING % "g_colors", g_colours="")
    monkeypatch.chdir(tmp_path)
    where = f"{tmp_path} or {tmp_path}/settings"
    said = f"run.plugins: no module 'g_colors' in {where}, nor installed; did you mean 'g_colours'?"
    assert mistakes(path).endswith(said)


@pytest.mark.parametrize("name", ["g_colours.py", "plugins/g_colours.py"])
def test_a_file_name_in_place_of_a_module_is_refused(beside, name):
    said = mistakes(beside(NOTHING % name, g_colours="raise SystemExit"))
    assert said.endswith(f"run.plugins: expected the name of a module, got '{name}'; did you mean 'g_colours'?")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import math\nmath.sqrt(-1)\n", 2, "ValueError: "),
        ("import g_not_there\n", 1, "ModuleNotFoundError: No module named 'g_not_there'"),
        ("import math\n\ndef f(:\n", 3, "SyntaxError: "),
        ("import json\njson.loads('[')\n", 2, "JSONDecodeError: "),
        ("import sys\nsys.exit('no GPU')\n", 2, "SystemExit: no GPU"),
    ],
)
def test_a_module_that_raises_is_named_with_file_and_line(beside, text, line, said):
    path = beside(NOTHING % "g_broken", g_broken=text)
    message = mistakes(path, "run.max_epoch=ten")
    assert f"run.plugins: the module g_broken raises at {path.parent}/g_broken.py:{line}: {said}" in message
    assert "run.max_epoch: expected int" in message


def test_a_name_that_is_taken_is_said_with_the_line_of_the_plugin(beside):
    text = "from minigpt4.common.registry import registry\nregistry.register_processor('blip_caption')(type)\n"
    path = beside(NOTHING % "g_taken", g_taken="import minigpt4.processors\n" + text)
    assert f"{path.parent}/g_taken.py:3: ValueError: processor 'blip_caption' is already registered" in mistakes(path)


def test_a_plugin_that_is_imported_first_cannot_take_a_name_of_this_package(tmp_path):
    (tmp_path / "g_first_of_all.py").write_text(
        "from minigpt4.common.registry import registry\nregistry.register_processor('blip_caption')(object)\n"
    )
    code = "import g_first_of_all"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ValueError: processor 'blip_caption' is already registered as" in done.stderr
    assert "not <class 'object'>" in done.stderr


def test_a_module_that_registers_nothing_is_a_warning_and_is_imported_once(beside, caplog):
    path = beside(NOTHING % "g_empty", g_empty="import minigpt4.datasets.caption\n")
    Config.load(path)
    Config.load(path)
    assert caplog.messages == [f"run.plugins: g_empty ({path.parent}/g_empty.py) registers nothing"]


def test_a_module_that_was_repaired_is_imported_by_the_next_config(beside):
    path = beside("run: {plugins: [g_mended]}\ndatasets: {g_shades: {}}\n", g_mended=SHADES % DICT + "\n    oops\n")
    assert "NameError: name 'oops' is not defined" in mistakes(path)
    beside("run: {plugins: [g_mended]}\ndatasets: {g_shades: {}}\n", g_mended=SHADES % DICT + "\n    more = 1\n")
    assert Config.load(path).datasets_cfg.g_shades.sample_ratio == 5


def test_a_file_beside_the_yaml_hides_no_library(beside):
    path = beside(NOTHING % "g_uses_json", json="raise ImportError('hidden')", g_uses_json="import json.tool\n")
    assert Config.load(path).run_cfg.plugins == ["g_uses_json"]


def test_a_class_that_is_defined_again_replaces_itself():
    table = Registry()
    make = {"__module__": "notebook", "__qualname__": "Mine"}
    table.register_task("x")(type("Mine", (), dict(make)))
    again = table.register_task("x")(type("Mine", (), dict(make)))
    assert table.get_task_class("x") is again


@pytest.fixture
def install(beside, tmp_path, monkeypatch):
    """Return a function that puts a package with an entry point on the search path, as pip would."""
    monkeypatch.setattr(plugins, "load_installed", functools.cache(plugins.load_installed.__wrapped__))
    (tmp_path / "site").mkdir()
    sys.path.append(str(tmp_path / "site"))

    def write(name, text):
        (tmp_path / "site" / f"{name}.py").write_text(textwrap.dedent(text))
        info = tmp_path / "site" / f"{name}_dist-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[minigpt4.plugins]\n{name}_point = {name}\n")
        importlib.invalidate_caches()

    return write


def test_the_plugin_of_an_installed_package_is_found_when_its_name_is_looked_up(install, beside):
    install("g_installed", SHADES % DICT)
    registry.get_builder_class("gqa")
    assert "g_installed" not in sys.modules
    assert Config.load(beside("datasets: {g_shades: {}}\n")).datasets_cfg.g_shades.sample_ratio == 5
    assert "g_shades" in registry.list_datasets()


def test_a_broken_plugin_of_an_installed_package_is_named_and_stops_no_other_run(install, beside, caplog):
    caplog.set_level(logging.WARNING)
    install("g_wrong", "1 / 0\n")
    Config.load(beside("datasets: {gqa: {}}\n"))
    assert caplog.messages == []
    said = "the plugin g_wrong_point of the package g_wrong-dist: the module g_wrong raises at "
    assert said in mistakes(beside("datasets: {g_shades: {}}\n"))
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(said)
    assert "gqa" in registry.list_datasets()


PARTS = """
    from minigpt4.common.registry import registry
    from minigpt4.evaluation.benchmark import Benchmark
    from minigpt4.datasets.base_dataset import InstructionDataset
    from minigpt4.datasets.base_builder import dataset
    from minigpt4.models.vision.vision_tower import VisionTower

"""
UNFIT = [
    (
        "@registry.register_benchmark('g_x')\n    class Quiz(Benchmark):\n        questions = export = print",
        "benchmark 'g_x': Quiz lacks the methods is_valid, score_one",
    ),
    (
        "@registry.register_vision_tower('g_x')\n    class Tower(VisionTower):\n        encode = print",
        "vision_tower 'g_x': Tower lacks the methods count_patches, from_config",
    ),
    (
        "@dataset('g_x', {})\n    class Shades(InstructionDataset):\n        fields = {}",
        "dataset 'g_x': Shades lacks the method turns",
    ),
]


@pytest.mark.parametrize(("text", "said"), UNFIT, ids=["benchmark", "vision_tower", "dataset"])
def test_a_class_that_lacks_a_method_is_named_with_the_methods(beside, text, said):
    path = beside(NOTHING % "g_lacking", g_lacking=PARTS + "    " + text + "\n")
    message = mistakes(path)
    assert f"run.plugins: the module g_lacking raises at {path.parent}/g_lacking.py:" in message
    assert message.endswith(f"ValueError: {said}")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("builder", "minigpt4.datasets.base_builder.BaseDatasetBuilder"),
        ("vision_tower", "minigpt4.models.vision.vision_tower.VisionTower"),
        ("language_model", "minigpt4.models.language.language_model.LanguageModel"),
        ("benchmark", "minigpt4.evaluation.benchmark.Benchmark"),
    ],
)
def test_a_class_that_is_no_subclass_of_its_base_is_refused(kind, base):
    table = Registry()
    getattr(table, f"register_{kind}")("x")(type("Mine", (), {}))
    with pytest.raises(ValueError, match=rf"^{kind} 'x': Mine is no subclass of {base}$"):
        getattr(table, f"get_{kind}_class")("x")
