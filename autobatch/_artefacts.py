"""Where envs, policies and configs are found: names resolve to files in a fixed order of places."""

import os
from pathlib import Path
from typing import Final, Literal

from autobatch._errors import ConfigError, UnknownNameError, near_names
from autobatch._files import seen_in
from autobatch._remote import Place, files_in, is_url, place_of

Kind = Literal["envs", "policies", "configs", "configs/paper"]

_PACKAGE: Final = Path(__file__).resolve().parent


def artefact_roots() -> list[Path]:
    """List the folders that hold ``envs/``, ``policies/`` and ``configs/``, first come first served.

    Returns:
        The working directory, each folder of ``$AUTOBATCH_PATH``, then what is shipped: ``autobatch/_assets`` in an
        installed wheel, the repository root in an editable install.
    """
    named = [expand_home(folder) for folder in os.environ.get("AUTOBATCH_PATH", "").split(os.pathsep) if folder]
    assets = _PACKAGE / "_assets"
    return [Path.cwd(), *named, assets if assets.is_dir() else _PACKAGE.parent]


def artefact_names(kind: Kind) -> list[str]:
    """List the names of one kind of artefact.

    Args:
        kind: the folder that it lies in.

    Returns:
        Every name that ``find_artefact`` resolves, sorted, each once.
    """
    names: set[str] = set()
    for root in artefact_roots():
        pattern = "*/env.yaml" if kind == "envs" else "*.yaml"
        files = seen_in(root / kind, pattern)
        names.update(file.parent.name if kind == "envs" else file.stem for file in files if file.is_file())
    return sorted(names)


def find_artefact(kind: Kind, name: str | Path) -> Path:
    """Find the YAML file of an artefact.

    An existing path (a YAML file, or an env's folder) is taken as it is; names are looked up in the folders of
    ``artefact_roots``.

    Args:
        kind: the folder that it lies in.
        name: a name such as ``"digits-resnet8"``, or a path.

    Returns:
        The path of the YAML file.

    Raises:
        ConfigError: the path exists but is a folder without ``env.yaml``.
        UnknownNameError: nothing of that name exists; the message lists near names and where they were looked for.
    """
    text = str(name)
    path = expand_home(text)
    is_plain_name = (path.name == text or not text) and path.suffix not in {".yaml", ".yml"}
    if not is_plain_name and _exists(path):
        return _yaml_of(kind, path)
    if is_plain_name:
        for root in artefact_roots():
            candidate = root / kind / (f"{text}/env.yaml" if kind == "envs" else f"{text}.yaml")
            if _exists(candidate):
                return candidate
        if text and _exists(path):
            return _yaml_of(kind, path)
    noun = {"envs": "env", "policies": "policy", "configs": "config", "configs/paper": "experiment"}[kind]
    places = ", ".join(str(root / kind) for root in dict.fromkeys(artefact_roots()))
    raise UnknownNameError(
        f"unknown {noun} {text!r}: no such file, and no such name in {places}; {near_names(text, artefact_names(kind))}"
    )


def library_names() -> list[str]:
    """List the names of the beacon libraries that are found.

    Returns:
        Every folder of beacons that ``find_library`` resolves by name, with an ``env.yaml`` beside it or without,
        sorted, each once.
    """
    folders = (folder for root in artefact_roots() for folder in seen_in(root / "envs", "*"))
    return sorted({folder.name for folder in folders if holds_beacons(folder)})


def find_library(name: str | Path) -> Place:
    """Find a beacon library.

    Args:
        name: the name of a folder in ``envs/``, with an ``env.yaml`` or without, or the path of such a folder, of its
            ``env.yaml``, or of a Parquet file, or the URL of a folder or Parquet file in object storage.

    Returns:
        The folder or the Parquet file; a folder with an ``env.yaml`` may have no beacons yet.

    Raises:
        ConfigError: the path exists, but is neither a Parquet file nor a folder with beacons or an ``env.yaml``.
        UnknownNameError: nothing of that name exists; the message lists near names.
    """
    text = str(name)
    if is_url(text):
        return _in_storage(text)
    path = expand_home(text)
    places = [root / "envs" / text for root in artefact_roots()] if path.name == text else []
    for place in (*places, path):
        if holds_beacons(place) or _exists(place / "env.yaml"):
            return place
    if _exists(path):
        if path.suffix in {".parquet", ".yaml", ".yml"}:
            return path if path.suffix == ".parquet" else path.parent
        raise ConfigError(f"{path}: expected a folder with beacons or env.yaml, or a Parquet file")
    looked = ", ".join(str(place.parent) for place in dict.fromkeys(places)) or str(path.parent)
    known = {*artefact_names("envs"), *library_names()}
    raise UnknownNameError(f"unknown env or beacon library {text!r}: nothing in {looked}; {near_names(text, known)}")


def _in_storage(url: str) -> Place:
    place = place_of(url)
    if holds_beacons(place) or (place.suffix == ".parquet" and place.exists()):
        return place
    raise UnknownNameError(f"{url}: holds no beacons: expected beacons.parquet or beacons/*.parquet there")


def holds_beacons(folder: Place) -> bool:
    """Say whether a folder, which need not exist, has ``beacons.parquet`` or a folder ``beacons`` of Parquet files."""
    return holds(folder, "beacons")


def holds(folder: Place, name: str) -> bool:
    """Say whether a folder has recordings.

    Args:
        folder: the folder; it need not exist.
        name: their kind, ``"beacons"`` or ``"branches"``.

    Returns:
        True where it has ``name.parquet`` or a folder ``name`` with Parquet files.
    """
    try:
        return (folder / f"{name}.parquet").exists() or bool(files_in(folder / name, "*.parquet"))
    except (OSError, ValueError):  # a name too long, without permission, or with a null byte
        return False


def portable(path: Path, folder: Path) -> str:
    """Write a path so that a folder that is passed on tells nothing of the machine, and finds it again where it can.

    Args:
        path: what a file in the folder is to name.
        folder: the folder.

    Returns:
        The bare name of a shipped env; else the way there from the folder, or from the home directory where that is
        all that they share.
    """
    if path.parent == artefact_roots()[-1] / "envs":
        return path.name
    whole, base = (Path(os.path.abspath(place)) for place in (path, folder))
    home = Path(os.path.abspath(Path("~").expanduser()))
    if whole.is_relative_to(home) and not base.is_relative_to(home):
        return str("~" / whole.relative_to(home))
    try:
        return os.path.relpath(whole, base)
    except ValueError:  # on another drive
        return str(path)


def told_path(path: Path) -> str:
    """Write a path for files that are passed on and need not find it again.

    Args:
        path: a path.

    Returns:
        An absolute one as it is seen from the working directory or the home directory, where it lies in one of them,
        and else its last part; others as they are.
    """
    if not path.is_absolute():
        return str(path)
    for base, start in ((Path.cwd(), Path()), (expand_home("~"), Path("~"))):
        if path.is_relative_to(base):
            return str(start / path.relative_to(base))
    return path.name


def found_again(text: str, folder: Path) -> Path:
    """Return the path that ``portable`` has written, or an absolute one of older versions; it need not exist."""
    shipped = artefact_roots()[-1] / "envs" / text
    if Path(text).name == text != ".." and shipped.exists():
        return shipped
    return Path(os.path.normpath(Path(os.path.abspath(folder)) / expand_home(text)))


def expand_home(text: str) -> Path:
    """Return a path with ``~`` expanded where there is such a home directory, else as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # '~somebody' without an account
        return Path(text)


def _yaml_of(kind: Kind, path: Path) -> Path:
    if not path.is_dir():
        return path
    if kind == "envs" and _exists(path / "env.yaml"):
        return path / "env.yaml"
    raise ConfigError(f"{path}: expected a YAML file{' or a folder with env.yaml' if kind == 'envs' else ''}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, without permission, or with a null byte
        return False
