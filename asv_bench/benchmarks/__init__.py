import os

# Where these are set, OpenBLAS does not choose its kernels by the processor, and NumPy, the reference, is slower
# than on a user's machine. It reads them when it is loaded: this must come before the first import of NumPy. asv has
# imported NumPy before: run it without them.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)
# Processor time tells how fast one thread is. The long tables have threads.Launch, which is about several.
if not os.environ.get("FASTFC_LONG"):
    for variable in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

# One core is compared with one core; what measures threads names their number.
os.environ["FASTFC_NUM_THREADS"] = "1"
