import ast
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README, KERNELS = ROOT / "README.md", ROOT / "kernels" / "README.md"
INSIDE = ("fastfc/io", "fastfc/sklearn", "fastfc/tabular", "fastfc/training")
FOLDERS = ("fastfc", *INSIDE, "kernels", "asv_bench", "tests")
PAGES = [README, *(ROOT / folder / "README.md" for folder in FOLDERS)]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
WITHOUT_TEST_EXTRA = ["torch"]


def name_of(page):
    return str(page.parent.relative_to(ROOT)) if page != README else "README"


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def blocks(file, language):
    """(line of the first statement, text) of each fenced block."""
    text = TEXT[file]
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n"), match[1]


def test_every_page_is_listed():
    found = {page for folder in ("fastfc", "kernels", "tests") for page in (ROOT / folder).rglob("README.md")}
    assert found | {README, ROOT / "asv_bench" / "README.md"} == set(PAGES)


@each_page
def test_blocks_run(page, tmp_path, monkeypatch):
    """In the order of the page, in a namespace of its own."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, code in blocks(page, "python"):
        imported = {name for name in WITHOUT_TEST_EXTRA if re.search(rf"^(?:import|from) {name}\b", code, re.MULTILINE)}
        if all(find_spec(name) for name in imported):
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


@each_page
def test_every_python_block_is_fenced_so_that_it_runs(page):
    assert TEXT[page].count("```python") == len(list(blocks(page, "python")))


def test_the_readme_is_short():
    assert len(TEXT[README].splitlines()) <= 150


def anchors(text):
    """The anchors that GitHub gives the headings of a page: without punctuation, twins numbered."""
    seen = {}
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor


def broken_links(text, page):
    """The relative links of a page to files or headings that do not exist."""
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        file = Path(os.path.normpath(page.parent / path)) if path else page
        there = text if file == page else TEXT.get(file, "")
        if not file.exists() or (anchor and anchor not in anchors(there)):
            yield link


@each_page
def test_links_lead_somewhere(page):
    assert list(broken_links(TEXT[page], page)) == []


def test_broken_links_are_found():
    text = "# A `b` page, in short!\n## A b\n## A b\n```sh\n# no heading [x](y)\n```\n[{}]({})"
    for good in (
        "#a-b-page-in-short",
        "#a-b",
        "#a-b-1",
        "kernels/README.md#to-add-a-kernel",
        "http://a.b/c#d",
        "tests",
    ):
        assert list(broken_links(text.format("here", good), README)) == []
    for bad in ("#A-b", "#a-b-2", "#no-heading-xy", "kernels/README.md#nowhere", "nowhere.md", "nowhere.png"):
        assert list(broken_links(text.format("here", bad), README)) == [bad]


def test_first_block_is_the_two_commands():
    _, first = next(blocks(README, "[a-z]*"))
    assert first == 'pip install . && fastfc demo\npip install -e ".[test]" && pytest\n'


def defined(file):
    """Names of functions, classes and variables at the top of a file."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def definitions(text):
    """(file, name) of each `file.py:name` in a page; `:name` is in the file before it."""
    file = ""
    for path, name in re.findall(r"`((?:\w+/)*\w+\.py)?:(\w+)`", text):
        file = path or file
        yield file, name


DEFINITIONS = sorted({definition for text in TEXT.values() for definition in definitions(text)})


@pytest.mark.parametrize(("file", "name"), DEFINITIONS, ids=":".join)
def test_definitions_that_the_pages_name_exist(file, name):
    if "/" in file:
        paths = [ROOT / file]
    else:  # on the page of the kernels
        paths = list((ROOT / "fastfc" if file == "reference.py" else ROOT / "kernels").rglob(file))
    assert any(name in defined(path) for path in paths)


def test_every_formula_of_a_step_is_on_the_page():
    named = {name for file, name in definitions(TEXT[KERNELS]) if file == "reference.py"}
    assert named >= {
        "dense_forward",
        "mse_loss",
        "cross_entropy_loss",
        "activation_backward",
        "dense_weight_grad",
        "dense_bias_grad",
        "dense_input_grad",
        "sgd",
        "adam",
        "layer_norm",
        "batch_norm",
        "norm_backward",
        "dropout_mask",
        "train_step",
    }


# Python files and pictures, by name or by path.
NAMED = {page: set(re.findall(r"(?<![\w/*<.])((?:\w+/)*\w+\.(?:py|svg))\b", TEXT[page])) for page in PAGES}


@each_page
def test_files_that_are_named_exist(page):
    folders = [ROOT, page.parent, ROOT / "fastfc", ROOT / "asv_bench", ROOT / "tests"]
    there = {path.name for folder in folders for path in folder.rglob("*.*")}
    missing = [name for name in NAMED[page] if not any((folder / name).exists() for folder in folders)]
    assert [name for name in missing if "/" in name or name not in there] == []


def test_names_of_files_are_found():
    assert len(set().union(*NAMED.values())) >= 60


COMMAND = re.compile(r"\bfastfc ((?:demo|train|predict|compare|doctor|warmup)\b[^\n`&#|]*)")
COMMANDS = sorted({command for text in TEXT.values() for command in COMMAND.findall(text)})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_exist(command, capsys):
    from fastfc.cli import main as cli

    name, *words = command.split()
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words if word.startswith("--"))


@each_page
def test_no_figure_is_left_open(page):
    assert "TBD" not in TEXT[page]
