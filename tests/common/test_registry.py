import subprocess
import sys

import pytest

from minigpt4.common.registry import Registry, registry


def test_a_name_finds_the_class_that_was_registered_under_it():
    assert registry.get_builder_class("gqa").__name__ == "GQABuilder"
    assert "gqa" in registry.list_datasets()


def test_an_unknown_name_says_did_you_mean():
    with pytest.raises(ValueError, match=r"no builder is registered as 'gqaa'; did you mean 'gqa'\?"):
        registry.get_builder_class("gqaa")


def test_a_name_taken_by_another_class_is_an_error():
    table = Registry()
    first = table.register_task("x")(type("First", (), {}))
    assert table.register_task("x")(first) is first
    with pytest.raises(ValueError, match="task 'x' is already registered"):
        table.register_task("x")(type("Second", (), {}))


def test_importing_the_registry_imports_nothing_heavy():
    code = "import sys, minigpt4.common.registry; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
