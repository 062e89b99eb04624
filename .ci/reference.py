"""The reference pages, made by pdoc from the docstrings: python .ci/reference.py [FOLDER]

Each public name of fastfc and fastfc.sklearn has one entry, and so have those of the public modules. To read them, open
index.html in the folder, by default build/reference.
"""

import sys
from pathlib import Path

import pdoc

import fastfc.sklearn
from fastfc import initializers, metrics

MODULES = ["fastfc", "fastfc.nn.initializers", "fastfc.sklearn"]  # with the modules in `__all__`
FOLDER = Path(__file__).parent.parent / "build" / "reference"


def make(folder):
    for name in fastfc.LATER:  # pdoc sees what a module has, not what it imports when asked
        setattr(fastfc, name, getattr(fastfc, name))
    initializers.__all__ = ["fit_to"]  # its classes are fastfc's
    for module in (metrics, fastfc.sklearn):
        module.__all__ = [name for name in module.__all__ if name not in fastfc.__all__]
    fastfc.nopython.__all__ = ["NopythonError"]  # its page says what @njit functions can do
    pdoc.render.configure(docformat="numpy", math=True, show_source=False, footer_text=f"fastfc {fastfc.__version__}")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    make(target)
    print(target / "index.html")
