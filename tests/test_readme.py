import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    """(line of the first statement, text) of each fenced block."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        yield TEXT[: match.start(1)].count("\n"), match[1]


def test_tour_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, code in blocks("python"):
        exec(compile("\n" * line + code, str(README), "exec"), namespace)


def test_every_python_block_is_fenced_so_that_it_runs():
    assert TEXT.count("```python") == len(list(blocks("python"))) >= 5


def test_first_block_is_the_two_commands():
    _, first = next(blocks("[a-z]*"))
    assert first == 'pip install . && fastfc demo\npip install -e ".[test]" && pytest\n'


COMMANDS = sorted(set(re.findall(r"\bfastfc ((?:demo|compare|doctor|warmup)\b[^\n`&#|]*)", TEXT)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_options_exist(command, capsys):
    from fastfc import cli

    name, *words = command.split()
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words if word.startswith("--"))


def test_no_figure_is_left_open():
    assert "TBD" not in TEXT
