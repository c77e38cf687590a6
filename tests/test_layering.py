"""Who may import whom: DESIGN's table, read off the import statements."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "common",
    "conversation",
    "processors",
    "reports",
    "datasets",
    "preflight",
    "models",
    "evaluation",
    "tasks",
    "runners",
    "sample_world",
}
MAY_IMPORT = {
    "common": {"common"},
    "conversation": {"conversation", "common"},
    "processors": {"processors", "common"},
    "reports": {"reports", "common"},
    "datasets": {"datasets", "common", "conversation", "processors", "reports"},
    "preflight": {"preflight", "common", "conversation", "datasets", "reports"},
    "models": {"models", "common", "conversation"},
    "evaluation": {"evaluation", "common", "conversation", "processors", "reports"},
    "tasks": {"tasks", "common", "conversation", "datasets", "models", "preflight"},
    "runners": {"runners", "common", "conversation", "datasets.mixture", "tasks", "reports"},
    "cli": {"cli", "api", "chat", "export", "inference", *PACKAGES},
    "sample_world": {"sample_world", "common", "conversation", "processors", "models", "datasets", "evaluation"},
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_lies_below_it(package):
    files = list((ROOT / "minigpt4" / package).rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            if module.startswith("minigpt4."):
                inner = module.removeprefix("minigpt4.")
                allowed = MAY_IMPORT[package]
                assert any(inner == a or inner.startswith(a + ".") for a in allowed), f"{path} imports {module}"
            assert package != "datasets" or module.split(".")[0] != "transformers", f"{path} imports transformers"


def test_every_package_has_its_row_in_the_table():
    packages = {p.parent.name for p in (ROOT / "minigpt4").glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


def test_nobody_imports_scripts():
    folders = {"eval_scripts", "benchmarks"}
    scripts = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")} | folders | {"train"}
    for path in (ROOT / "minigpt4").rglob("*.py"):
        assert not {module.split(".")[0] for module in imported_modules(path)} & scripts, path


def test_nobody_imports_the_command_line():
    paths = [path for path in (ROOT / "minigpt4").rglob("*.py") if "cli" not in path.relative_to(ROOT).parts]
    assert len(paths) > 100
    for path in paths:
        if path != ROOT / "minigpt4/__main__.py":
            assert not {module for module in imported_modules(path) if module.startswith("minigpt4.cli")}, path
