"""The version of the library, and a digest of its sources: commits share a version until a release."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch

__version__ = "0.1.0"


def library_version() -> str:
    """Return the version of this library."""
    return __version__


def running_versions() -> dict[str, str]:
    """Return the versions of the libraries that a fit depends on, and a digest of this library's sources."""
    return {
        "sklearn_kd": library_version(),
        "sklearn_kd's code": code_digest(),
        "torch": str(torch.__version__),
    }


@cache
def code_digest() -> str:
    """Return a digest of the package's source files, or "unknown" without such files, as in an archive."""
    folder = Path(__file__).parent
    digest, sources = hashlib.sha256(), sorted(folder.rglob("*.py"))
    for source in sources:
        # Git may have checked out the sources with other line endings.
        text = source.read_bytes().replace(b"\r\n", b"\n")
        digest.update(b"%s %d\n" % (source.relative_to(folder).as_posix().encode(), len(text)))
        digest.update(text)
    return digest.hexdigest()[:16] if sources else "unknown"
