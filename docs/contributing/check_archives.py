"""Check what is in the archives of a release: a wheel and an sdist.

    python docs/contributing/check_archives.py dist

prints what each archive holds and ends with an error where something is missing or too much.
"""

import re
import sys
import tarfile
import zipfile
from collections import Counter
from email import message_from_string
from pathlib import Path

PACKAGE = "sklearn_kd"
IN_EVERY_SDIST = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "PKG-INFO", "docs/conf.py"}
FOLDERS_OF_SDIST = {PACKAGE, "tests", "docs", "examples"}
_SOURCES = rf"{PACKAGE}/(.+\.py|py\.typed)"
_DIST_INFO = rf"{PACKAGE}-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|licenses/LICENSE)"
# What runs and builds leave behind.
LEFT_BEHIND = re.compile(
    r"__pycache__|\.py[co]$|\.pt$|\.log$|docs/(_build|_gallery|auto_examples|generated)/"
)


def wheel_faults(names: list[str], metadata: str) -> list[str]:
    """Return what is wrong with the files and the metadata of a wheel."""
    wanted = re.compile(f"{_SOURCES}|{_DIST_INFO}")
    faults = [f"{name} does not belong into the wheel" for name in names if not wanted.fullmatch(name)]
    for name in (f"{PACKAGE}/py.typed", f"{PACKAGE}/__init__.py"):
        if name not in names:
            faults.append(f"{name} is missing")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        faults.append("the licence is missing")
    said = message_from_string(metadata)
    for field in ("License-Expression", "Requires-Python", "Summary", "Description-Content-Type"):
        if not said[field]:
            faults.append(f"METADATA has no {field}")
    return faults


def sdist_faults(names: list[str]) -> list[str]:
    """Return what is wrong with the files of an sdist, named without their first folder."""
    faults = [f"{name} is missing" for name in sorted(IN_EVERY_SDIST - set(names))]
    faults += [f"{name} was left behind" for name in names if LEFT_BEHIND.search(name)]
    faults += [f"{name}/ is missing" for name in sorted(FOLDERS_OF_SDIST - {n.split("/")[0] for n in names})]
    return faults


def read_wheel(path: Path) -> tuple[list[str], str]:
    """Return the names in a wheel, and its METADATA."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return names, archive.read(metadata).decode()


def read_sdist(path: Path) -> list[str]:
    """Return the names of the files in an sdist, without their first folder."""
    with tarfile.open(path) as archive:
        return [member.name.partition("/")[2] for member in archive if member.isfile()]


def main(folder: Path) -> list[str]:
    """Print what the archives in a folder hold, and return what is wrong."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    in_wheel, metadata = read_wheel(wheel)
    in_sdist = read_sdist(sdist)
    for path, names in ((wheel, in_wheel), (sdist, in_sdist)):
        kinds = Counter(Path(name).suffix or Path(name).name for name in names)
        print(f"{path.name}: {len(names)} files, {path.stat().st_size:,} bytes")
        print("   " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    faults = wheel_faults(in_wheel, metadata) + sdist_faults(in_sdist)
    sources = {name for name in in_sdist if re.fullmatch(rf"{PACKAGE}/.+\.py", name)}
    faults += [f"{name} is not in the wheel" for name in sorted(sources - set(in_wheel))]
    version = message_from_string(metadata)["Version"]
    if wheel.name.split("-")[1] != version or sdist.name != f"{PACKAGE}-{version}.tar.gz":
        faults.append(f"the archives are not both of version {version}")
    return faults


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print("\n".join(found) or "nothing missing, nothing too much")
    sys.exit(bool(found))
