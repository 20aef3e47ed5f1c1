"""Pack the content of an estimator into a safetensors file with a digest. Nothing in the file can run.

The metadata of the file have ``kind``, ``format_version``, ``about`` (the content without its tensors, as
JSON, with the types and shapes of compressed tensors) and ``sha256``. The digest covers ``about`` and the
tensors, because weights corrupted by a disk or a network would still load. It is not a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklearn_kd.files._limits import TooLargeError, parsed_json
from sklearn_kd.files._tensors import hash_tensor
from sklearn_kd.files._values import ContentError
from sklearn_kd.persistence._compressed_tensors import compress_tensors, decompress_tensors
from sklearn_kd.persistence._requirements import import_package

SUFFIX = ".safetensors"
KIND = "sklearn_kd.estimator"
FORMAT_VERSION = 2
_READ_VERSIONS = ("1", "2")

# Defaults at the time of format 1 that have changed since, for estimators and for an MLPStudent. A file lacks
# parameters of the student that were not set, and those that the estimator did not have in the version that
# wrote it.
_FORMAT_1_DEFAULTS = {"standardize": False}
_FORMAT_1_MLP_DEFAULTS = {"student__hidden": 32}

# A file begins with the length of its header, in this many bytes; the limit is that of safetensors.
_LENGTH_BYTES, _LONGEST_HEADER = 8, 100_000_000

_MEND = "Give a file that save has written."


class Content(NamedTuple):
    """The content of a file.

    Attributes
    ----------
    about : dict
        Values that can be written as JSON.
    tensors : dict of Tensor
    """

    about: dict[str, Any]
    tensors: dict[str, Tensor]


def packed(content: Content) -> bytes:
    """Return the bytes of a file with this content.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    TypeError
        If a tensor is sparse or quantized, which safetensors does not support.
    """
    safetensors = _safetensors("Saving an estimator")
    odd = [
        name
        for name, tensor in content.tensors.items()
        if tensor.layout != torch.strided or tensor.is_quantized
    ]
    if odd:
        raise TypeError(
            f"safetensors does not support sparse and quantized tensors, such as {odd[:4]}. Make them "
            "dense, for example with to_dense() or dequantize()."
        )
    # Copy them, because safetensors refuses tensors that share memory, such as tied weights.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in content.tensors.items()
    }
    tensors, compressed = compress_tensors(tensors)
    about = json.dumps(content.about | ({"compressed": compressed} if compressed else {}))
    metadata = {
        "kind": KIND,
        "format_version": str(FORMAT_VERSION),
        "about": about,
        "sha256": _digest(about, tensors),
    }
    return safetensors.save(tensors, metadata=metadata)


def unpacked(data: bytes, name: str) -> Content:
    """Return the content of a file.

    Parameters
    ----------
    data : bytes
        Any bytes.
    name : str
        Name of the file in messages.

    Raises
    ------
    ValueError
        If it is not a file of an estimator, or is damaged.
    ImportError
        If safetensors is not installed.
    """
    safetensors = _safetensors("Loading an estimator")
    metadata = _metadata(data, name)
    try:
        tensors = safetensors.load(data)
    except Exception as error:  # an arbitrary file may cause any error in the reader
        raise ValueError(
            f"{name} is damaged: its tensors cannot be read ({type(error).__name__}: {error}). {_MEND}"
        ) from error
    text = metadata.get("about")
    if not isinstance(text, str) or metadata.get("sha256") != _digest(text, tensors):
        raise ValueError(
            f"{name} is damaged: its content does not match its sha256. Copy the file again from its "
            "source, or save the estimator again."
        )
    about = _parsed(text, name, lambda error: f"has metadata that are not JSON ({error})")
    if not isinstance(about, dict):
        raise ValueError(f"{name} has a {type(about).__name__} as metadata, not a dictionary. {_MEND}")
    try:
        tensors = decompress_tensors(tensors, about.pop("compressed", {}), len(data))
    except TooLargeError as error:
        raise ValueError(f"{name} is refused: {error}. {_MEND}") from error
    except ContentError as error:
        raise ValueError(f"{name} cannot be loaded: it has {error}.") from error
    return Content(_in_present_terms(about, metadata["format_version"]), tensors)


def _in_present_terms(about: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the values of a file in the form of the current version."""
    params = about.get("params")
    if version != "1" or not isinstance(params, dict):
        return about
    is_mlp = params.get("student") == {"student": "MLPStudent"}
    return about | {"params": _FORMAT_1_DEFAULTS | (_FORMAT_1_MLP_DEFAULTS if is_mlp else {}) | params}


def _safetensors(purpose: str) -> ModuleType:
    return import_package("safetensors.torch", purpose)


def _parsed(text: str | bytes, name: str, explain: Callable[[Exception], str]) -> Any:
    """Parse JSON of the file. If that fails, ``explain`` completes the message "the file ..."."""
    try:
        return parsed_json(text)
    except TooLargeError as error:
        raise ValueError(f"{name} is refused: {error}. {_MEND}") from error
    except Exception as error:
        raise ValueError(f"{name} {explain(error)}. {_MEND}") from error


def _metadata(data: bytes, name: str) -> dict[str, Any]:
    """Return the metadata of a safetensors file of this kind and version."""
    header = _header(data, name)
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("kind") != KIND:
        if {"classes", "input_shape", "sklearn_kd_version"} <= set(metadata):
            raise ValueError(
                f"{name} has only a student, as export_student writes it. Load it into a module with "
                "safetensors.torch.load_model(module, path), or save the estimator with its method save."
            )
        raise ValueError(
            f"{name} is a safetensors file, but not of an estimator: its metadata have kind="
            f"{metadata.get('kind')!r}, not {KIND!r}. {_MEND}"
        )
    version = metadata.get("format_version")
    if version not in _READ_VERSIONS:
        raise ValueError(
            f"{name} has format {version!r}; this version of sklearn-kd reads "
            f"{' and '.join(_READ_VERSIONS)}. If a later version has saved it, install that version."
        )
    return metadata


def _header(data: bytes, name: str) -> Any:
    """Return the JSON at the beginning of a safetensors file."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    fits = 2 <= length <= min(_LONGEST_HEADER, len(data) - _LENGTH_BYTES)

    def explain(error: Exception) -> str:
        if not fits and data[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{":
            return f"is truncated or damaged: it has {len(data)} bytes, its header alone should have {length}"
        return f"is not a safetensors file{_looks_like(data)}"

    return _parsed(data[_LENGTH_BYTES : _LENGTH_BYTES + length] if fits else b"", name, explain)


def _looks_like(data: bytes) -> str:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            ", but a pickle, which can run any code when it is loaded. If it is your own, load it with "
            "pickle or joblib and save the estimator with its method save"
        )
    if data[:2] == b"PK":
        return ", but a zip archive, as torch.save, numpy.savez and DistillationProcess.save write it"
    return "" if data else ", but empty"


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    """Return a digest of the whole content, in hexadecimal."""
    digest = hashlib.sha256(about.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        hash_tensor(digest.update, tensors[name], name)
    return digest.hexdigest()
