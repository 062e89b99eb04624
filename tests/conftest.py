from hypothesis import settings

# The first example may compile a kernel, which takes seconds.
settings.register_profile("fastfc", deadline=None)
settings.load_profile("fastfc")
