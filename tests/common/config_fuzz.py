"""Configs that nobody would write: published files changed in their structure and in their bytes."""

import random
from pathlib import Path

import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "train_configs").glob("*.yaml"), *(ROOT / "eval_configs").glob("*.yaml")])
NESTED = "[" * 3000 + "]" * 3000
ODD_VALUES = [
    *(None, True, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", "null", "0010", "1e5", "ten", "???", "${x}"),
    *("${run.seed}", "${", "a: b", "a\0b", "\ud800", "ä" * 300, "\n", " x ", "None", "[", "{}", "~"),
    *([], {}, [None], [[1]], {"a": None}, {"": {}}, [{"a": [1, {"b": []}]}], {"${run.seed}": "${oc.env:HOME}"}),
]
ODD_TEXTS = [
    *(
        "\t",
        "\0",
        "\ufeff",
        "&a ",
        "*a ",
        "*b ",
        "<<: ",
        "!!python/object:os.system ",
        "!!int ",
        "!x ",
        "? ",
        "- ",
        "| ",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "%YAML 9\n",
        "---\n",
        "...\n",
        ": ",
        "\n  ",
        "\r\n",
        "${",
        "# ",
        NESTED,
        "a: &a [*a]\n",
    ),
    *("\x85", "\u2028", '"\\ud800"', '"\\U99999999"', "1" * 5000, "~: 1\n", "[a]: 1\n", "\x1b", "<<: [1]\n", "=: 1\n"),
]
ODD_BYTES = [b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xf4\x90\x80\x80"]


def places_of(tree, above=()):
    """Return the keys that lead to every value of nested dictionaries and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [above, *(place for key, value in inner for place in places_of(value, (*above, key)))]


@st.composite
def changed_trees(draw):
    """Draw a published file with values replaced, removed or given to other keys."""
    tree = yaml.safe_load(draw(st.sampled_from(FILES)).read_text())
    for _ in range(draw(st.integers(1, 4))):
        places = [place for place in places_of(tree) if place]
        if not places:  # every section has been removed
            break
        *above, key = draw(st.sampled_from(places))
        holder = tree
        for step in above:
            holder = holder[step]
        how = draw(st.sampled_from(["replace", "remove", "rename"]))
        if how == "replace" or isinstance(holder, list):
            holder[key] = draw(st.sampled_from(ODD_VALUES) | st.text(max_size=20) | st.integers() | st.floats())
        else:
            value = holder.pop(key)
            if how == "rename":
                holder[draw(st.sampled_from(["x", "0010", "", "${x}", "name", "type"]) | st.text(max_size=5))] = value
    return tree


def as_yaml(tree):
    """Return a tree as YAML; what PyYAML cannot write (half characters) is escaped."""
    return yaml.dump(tree, allow_unicode=False).encode("utf-8", "surrogatepass")


def changed_bytes(seed):
    """Return a published file with odd texts and bytes put in, and parts cut out or doubled."""
    rng = random.Random(seed)
    content = rng.choice(FILES).read_bytes()
    for _ in range(rng.randint(1, 4)):
        at, other = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        odd = rng.choice([*(text.encode("utf-8", "surrogatepass") for text in ODD_TEXTS), *ODD_BYTES])
        line = content.rfind(b"\n", 0, at) + 1
        content = rng.choice(
            [
                content[:at] + odd + content[at:],
                content[:line] + odd + content[line:],
                content[:at] + content[min(other, at + 40) :],
                content[:at],
                content[:other] + content[line : line + 60] + content[other:],
            ]
        )
    return content
