import signal

from hypothesis import settings

# The first example may compile a kernel, which takes seconds.
settings.register_profile("fastfc", deadline=None)
settings.load_profile("fastfc")
# A shell starts processes in the background with Ctrl-C ignored, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
