"""A plugin of asv: each benchmark's results are saved as they come. asv saves them when all benchmarks have ended."""

import functools

from asv.results import Results


def setup():
    """Called by asv, which loads the results of a commit from a folder if it is to save them there."""
    load, add = Results.load_data, Results.add_result

    @functools.wraps(load)
    def load_data(self, folder):
        load(self, folder)
        self.folder = folder

    @functools.wraps(add)
    def add_result(self, *args, **kwargs):
        add(self, *args, **kwargs)
        if hasattr(self, "folder"):
            self.save(self.folder)

    Results.load_data, Results.add_result = load_data, add_result
