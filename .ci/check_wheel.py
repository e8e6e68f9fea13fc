"""Check that a wheel carries every artefact of the checkout and nothing that belongs to development.

python .ci/check_wheel.py WHEEL
"""

import sys
import zipfile
from pathlib import Path

ASSETS = "autobatch/_assets/"


def files_under(folder: str) -> set[str]:
    """Return the files below a folder of the checkout, as paths with forward slashes.

    Args:
        folder: a folder of the working directory.

    Returns:
        The paths, without byte code.
    """
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.as_posix() for path in paths}


def main(wheel: str) -> None:
    """Compare a wheel's contents with the checkout in the working directory.

    Args:
        wheel: path of the wheel.

    Raises:
        SystemExit: a module or an artefact is missing, or something else travels along.
    """
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    artefacts = {ASSETS + name for folder in ("envs", "policies", "configs", "schemas") for name in files_under(folder)}
    expected = files_under("autobatch") | artefacts
    if packed != expected or not artefacts:
        raise SystemExit(
            f"{wheel}: missing {sorted(expected - packed)}; not in the checkout {sorted(packed - expected)}"
        )
    print(f"{len(packed)} files, {len(artefacts)} of them artefacts")


if __name__ == "__main__":
    main(sys.argv[1])
