"""The instruction set that libraries are made to use, and what they say that they use."""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

from fastfc.kernels.simd.isa import processor_features

# What makes each library use an instruction set and none beyond it: fastfc, NumPy's OpenBLAS, PyTorch and what it
# multiplies with (oneDNN, MKL), JAX.
VARIABLES = {
    isa: {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": openblas,
        "ATEN_CPU_CAPABILITY": aten,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "XLA_FLAGS": f"--xla_cpu_max_isa={xla}",
    }
    for isa, cpu, openblas, aten, onednn, mkl, xla in [
        ("avx512", "skylake-avx512", "SkylakeX", "avx512", "AVX512_CORE", "AVX512", "AVX512"),
        ("avx2", "haswell", "Haswell", "avx2", "AVX2", "AVX2", "AVX2"),
        ("sse", "nehalem", "Nehalem", "default", "SSE41", "SSE4_2", "SSE4_2"),
    ]
}
# The feature of a processor that an instruction set needs, as LLVM names it.
FEATURES = {"avx512": "avx512vl", "avx2": "avx2", "sse": "sse4.2"}
# What libraries say, for each instruction set.
NAMES = {
    "avx512": {"avx512", "skylakex", "cooperlake", "sapphirerapids", "zen5"},
    "avx2": {"avx2", "haswell", "zen"},
    "sse": {"sse", "default", "nehalem", "core2", "penryn", "prescott"},
}


def supported() -> list[str]:
    """The instruction sets of VARIABLES that this processor has."""
    features = processor_features()
    return [isa for isa, feature in FEATURES.items() if features.get(feature)]


def forced(isa: str) -> dict[str, str]:
    """The environment variables of an instruction set; other flags of XLA stay."""
    variables = dict(VARIABLES[isa])
    flags = os.environ.get("XLA_FLAGS", "")
    return variables | {"XLA_FLAGS": f"{flags} {variables['XLA_FLAGS']}".strip()}


def openblas_core() -> str:
    """What NumPy's OpenBLAS calls the processor that its code is for; empty for another BLAS."""
    spec = find_spec("numpy")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    folders = [package.parent / "numpy.libs", package / ".dylibs"]
    for path in (path for folder in folders for path in folder.glob("*openblas*")):
        library = ctypes.CDLL(os.fspath(path))
        for name in ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename"):
            if hasattr(library, name):
                ask = getattr(library, name)
                ask.restype = ctypes.c_char_p
                return str(ask().decode())
    return ""


def told(library: str) -> str:
    """The instruction set that a library of this process says it uses, in its own words; empty if it does not tell."""
    if library.startswith("fastfc") or library == "limit":
        from fastfc.kernels.simd.isa import host_isa

        return host_isa().name
    if library == "NumPy":
        return openblas_core()
    if library == "PyTorch":
        import torch

        return torch.backends.cpu.get_cpu_capability()
    return ""


def agrees(isa: str, answer: str) -> bool:
    """Whether what a library says is this instruction set, or nothing."""
    return not answer or answer.lower() in NAMES[isa]
