import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README, KERNELS = ROOT / "README.md", ROOT / "kernels" / "README.md"
TEXT = README.read_text(encoding="utf-8")
WITHOUT_TEST_EXTRA = ["torch"]


def blocks(file, language):
    """(line of the first statement, text) of each fenced block."""
    text = file.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n"), match[1]


@pytest.mark.parametrize("file", [README, KERNELS], ids=["README", "kernels"])
def test_tour_runs(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, code in blocks(file, "python"):
        imported = {name for name in WITHOUT_TEST_EXTRA if re.search(rf"^(?:import|from) {name}\b", code, re.MULTILINE)}
        if all(find_spec(name) for name in imported):
            exec(compile("\n" * line + code, str(file), "exec"), namespace)


@pytest.mark.parametrize("file", [README, KERNELS], ids=["README", "kernels"])
def test_every_python_block_is_fenced_so_that_it_runs(file):
    assert file.read_text(encoding="utf-8").count("```python") == len(list(blocks(file, "python"))) >= 5


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


FUNCTIONS = sorted(set(re.findall(r"`(\w+\.py):(\w+)`", KERNELS.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "name"), FUNCTIONS, ids=":".join)
def test_functions_that_the_kernels_page_names_exist(file, name):
    folder = ROOT / "fastfc" if file == "reference.py" else ROOT / "kernels"
    assert any(name in defined(path) for path in folder.rglob(file))


def test_every_formula_of_a_step_is_on_the_page():
    named = {name for file, name in FUNCTIONS if file == "reference.py"}
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


@pytest.mark.parametrize("file", [README, KERNELS], ids=["README", "kernels"])
def test_files_that_are_named_exist(file):
    named = set(re.findall(r"(?<![\w/*<.])((?:\w+/)*\w+\.(?:py|svg))\b", file.read_text(encoding="utf-8")))
    folders = [ROOT, file.parent, ROOT / "fastfc", ROOT / "asv_bench", ROOT / "tests"]
    assert len(named) >= 3
    there = {path.name for folder in folders for path in folder.rglob("*.*")}
    assert [
        name for name in sorted(named) if not any((folder / name).exists() for folder in folders) and name not in there
    ] == []


COMMANDS = sorted(set(re.findall(r"\bfastfc ((?:demo|train|predict|compare|doctor|warmup)\b[^\n`&#|]*)", TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_exist(command, capsys):
    from fastfc.cli import main as cli

    name, *words = command.split()
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words if word.startswith("--"))


def test_no_figure_is_left_open():
    assert "TBD" not in TEXT
