import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastfc as fc

SCRIPT = Path(__file__).parent.parent / ".ci" / "reference.py"


@pytest.mark.slow
def test_each_public_name_has_one_entry(tmp_path):
    """Also kernels that Numba decorates, with their arguments, and what is imported when first used."""
    pytest.importorskip("pdoc")
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, "-W", "error", SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "index.html"), done.stderr
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    modules = ["nn/initializers", "kernels", "metrics", "nopython", "reference", "sklearn", "tabular"]
    assert set(pages) == {"index.html", "fastfc.html"} | {f"fastfc/{module}.html" for module in modules}
    entries = {page: re.findall(r'<section id="(\w+)"', text) for page, text in pages.items()}
    assert sorted(entries["fastfc.html"]) == sorted(set(fc.__all__) - {Path(module).name for module in modules})
    assert sorted(entries["fastfc/kernels.html"]) == sorted(fc.kernels.__all__)
    others = [
        name for page in ("nn/initializers", "metrics", "sklearn", "tabular") for name in entries[f"fastfc/{page}.html"]
    ]
    assert {"fit_to", "accuracy", "f1", "MLPClassifier", "MLPRegressor", "to_sklearn"} <= set(others)
    once = [*entries["fastfc.html"], *others]
    assert len(once) == len(set(once)) and entries["fastfc/nopython.html"] == ["NopythonError"]
    for module, names in entries.items():
        assert not [name for name in names if name.startswith("_")], module
    text = re.sub(r"<[^>]*>|\s", "", pages["fastfc/kernels.html"])
    assert "dense_forward(x:" in text and "out=f(xweight+bias)" in text and "exp(x:" in text
