"""Without an extra everything else works, and what needs it says which one to install."""

import subprocess
import sys

import pytest

# what each extra brings -> a use of it
USES = {
    ("onnx", "onnx"): "net.to_onnx('net.onnx')",
    ("pandas", "pandas"): "fc.History().to_dataframe()",
    ("matplotlib", "plot"): "net.history.plot()",
    ("graphviz", "graphviz"): "net.plot()",
    ("tqdm", "progress"): "sys.stderr.isatty = lambda: True; "
    "net.fit([[1, 2]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(), progress=True)",
    ("pyarrow", "table"): "fc.tabular.Table.of({'a': [1]})",
    ("safetensors", "safetensors"): "net.save('net.safetensors')",
    ("torch", "torch"): "net.to_torch()",
    ("sklearn", "sklearn"): "fc.from_sklearn(net)",
}

WITHOUT = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Missing())
import fastfc as fc, numpy as np
net = fc.MLP([2, 3, 1], seed=0)
net.fit(np.ones((4, 2)), np.ones((4, 1)), loss=fc.MSELoss(), optimizer=fc.SGD(), seed=0)
try:
    {use}
except ImportError as error:
    print(error)
"""


@pytest.mark.few(3)
@pytest.mark.parametrize("missing", USES, ids=" ".join)
def test_a_missing_extra_is_named(missing, tmp_path):
    module, extra = missing
    code = WITHOUT.format(module=module, use=USES[missing])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"needs {module}: pip install 'fastfc[{extra}]'" in done.stdout
