"""A side that runs a work of `ours.py` with the minibert of another checkout.

python -m benchmarks.checkout FOLDER WORK JSON
"""

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measure import serve


def main() -> None:
    folder = Path(sys.argv.pop(1)).resolve()
    sys.path.insert(0, str(folder))
    ours = import_module("benchmarks.ours")
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "minibert"]
    for file in (Path(module.__file__) for module in modules if getattr(module, "__file__", None)):
        if folder not in file.resolve().parents:  # of an installed minibert, which lacks no module
            sys.exit(f"error: {folder}: expected all of minibert there, found {file}")
    serve(ours.WORKS)


if __name__ == "__main__":
    main()
