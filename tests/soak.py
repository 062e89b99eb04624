"""What long tests did, in figures: printed, and appended to the file that FASTFC_SOAK_REPORT names, a line each."""

import json
import os


def report(test, **figures):
    shown = (f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    print(f"\n{test}: " + ", ".join(shown))
    path = os.environ.get("FASTFC_SOAK_REPORT")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps({"test": test, **figures}) + "\n")
