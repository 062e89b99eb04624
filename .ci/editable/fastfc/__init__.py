# For type checkers, see ../../build_backend.py. Python finds the fastfc beside kernels/ first.
