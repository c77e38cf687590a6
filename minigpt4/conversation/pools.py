"""Pools of wordings: the ways in which a dataset may put its question, kept in one YAML file that a user can edit."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from minigpt4.common.registry import did_you_mean

POOLS_FILE = Path(__file__).resolve().parents[1] / "configs" / "prompts" / "pools.yaml"
SLOT = "{}"


def load_pool(name: str, path: str | Path = POOLS_FILE) -> list[str]:
    """Return the wordings of one pool, canonical ones first.

    Raises: ValueError when the file has no such pool, or when a wording lacks the `{}` that the first one has.
    """
    pools = OmegaConf.to_container(OmegaConf.load(path))
    known = [str(known) for known in pools] if isinstance(pools, dict) else []
    if not isinstance(pools, dict) or name not in known:
        raise ValueError(f"{path}: no pool of wordings is named '{name}'{did_you_mean(name, known)}")
    pool = pools[name]
    if not isinstance(pool, list) or not pool or not all(isinstance(wording, str) for wording in pool):
        raise ValueError(f"{path}: pool '{name}' should be a list of one or more texts")
    for wording in pool:
        if wording.count(SLOT) != pool[0].count(SLOT):
            raise ValueError(f"{path}: pool '{name}': '{wording}' should have {SLOT} as often as '{pool[0]}'")
    return [str(wording) for wording in pool]


def fill(wording: str, text: str) -> str:
    """Return the wording with `text` in its place; braces inside `text` stay as they are."""
    return wording.replace(SLOT, text, 1)
