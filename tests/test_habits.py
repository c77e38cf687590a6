"""The files around the code say what is true: citation, layers, hooks, the Makefile, the reference pages."""

import re
import tomllib

import yaml

from minigpt4 import __version__
from tests.old_folders import ROOT
from tests.test_layering import MAY_IMPORT
from tools.layer_table import with_table


def test_the_citation_names_the_contributors_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"] == [{"name": "The MLLM-DataEngine for MiniGPT-v2 contributors"}]
    assert citation["preferred-citation"]["url"] == "https://arxiv.org/abs/2308.13566"


def test_contributing_has_the_table_of_layers_that_the_tests_hold():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert page == with_table(page), "python -m tools.layer_table writes the table"
    for package in MAY_IMPORT:
        assert f"\n| `{package}` | " in page


def test_what_runs_before_a_commit_is_a_part_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.partition("\nlint:")[2].partition("\nformat:")[0]  # with its two parts, `types` and `copies`
    assert "-j 2 types copies" in lint
    programs = {re.split(r"\s", hook["entry"])[0].removeprefix(".venv/bin/") for hook in hooks}
    assert programs == {"ruff", "codespell", "mypy"}
    assert programs | {"pylint"} == set(re.findall(r"\$\(BIN\)/(\w+)", lint))


def test_the_targets_that_the_documents_and_the_workflow_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".github/workflows/tests.yml"):
        named = set(re.findall(r"(?:`|^|run: )make ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        assert named and named <= targets, name


def test_the_workflow_tries_the_python_versions_that_the_package_names():
    [job] = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"].values()
    [version] = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    named = {line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)}
    assert named == {"3 :: Only", version}
    assert project["requires-python"] == f">={version}"
