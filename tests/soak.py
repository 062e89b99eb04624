"""What long tests did, in figures: printed, and appended to the file that FASTFC_SOAK_REPORT names, a line each."""

import json
import os


def report(test, **figures):
    print(f"\n{test}: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items()))
    path = os.environ.get("FASTFC_SOAK_REPORT")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps({"test": test, **figures}) + "\n")
