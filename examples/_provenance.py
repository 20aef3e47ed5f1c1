"""Record the code and the package versions that the numbers of a result file come from.

The scripts of this folder and its subfolders import this module by ``sys.path``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from modulefinder import ModuleFinder
from pathlib import Path
from types import ModuleType

import numpy as np
import sklearn
import skorch
import torch

import sklearn_kd

HERE = Path(__file__).resolve().parent
PACKAGES = (sklearn_kd, torch, skorch, sklearn, np)


def provenance(script: str | Path, *further: ModuleType) -> dict[str, dict]:
    """Return ``versions`` and ``code`` of a record; ``further`` are packages that it depends on as well."""
    return {"versions": versions(*further), "code": code_of(script)}


def versions(*further: ModuleType) -> dict[str, str]:
    """Return the versions of Python, of the packages of every record, and of others."""
    modules = (*PACKAGES, *further)
    return {m.__name__: m.__version__ for m in modules} | {"python": platform.python_version()}


def code_of(script: str | Path) -> dict[str, str | None]:
    """Identify the code that a script runs.

    Returns
    -------
    dict
        ``commit`` is the commit of the library's checkout, with "-dirty" if Python files differ from it, or
        None outside git. ``library`` is a digest of the Python files of sklearn_kd. ``script`` is a digest of
        the script and of the modules beside it that it imports. Runs with the same two digests are of the
        same code, even if other files were committed in between.
    """
    package = Path(sklearn_kd.__file__).parent
    return {
        "commit": commit_of(package),
        "library": _digest(package.rglob("*.py"), package),
        "script": _digest(_own_modules(Path(script).resolve()), HERE),
    }


def commit_of(package: Path) -> str | None:
    """Return the commit that a package is checked out from, or None if it is not under git."""
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    changed = _git(package, "status", "--porcelain", "--", ":/*.py")
    return f"{_git(package, 'rev-parse', 'HEAD')}{'-dirty' if changed else ''}"


def _git(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _own_modules(script: Path) -> list[Path]:
    """Return the script and the modules that it imports from its folder and from this one."""
    finder = ModuleFinder(path=[str(script.parent), str(HERE)])
    finder.run_script(str(script))
    return [Path(module.__file__) for module in finder.modules.values() if module.__file__]


def _digest(files: Iterable[Path], folder: Path) -> str:
    """Hash the contents of files and their names relative to a folder."""
    found = hashlib.sha256()
    for name, file in sorted((os.path.relpath(file, folder), file) for file in files):
        content = file.read_bytes()
        found.update(f"{name}\n{len(content)}\n".encode() + content)
    return found.hexdigest()[:16]
