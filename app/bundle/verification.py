"""Check that a bundle's files are the ones that its manifest describes."""

import hashlib
from pathlib import Path

from ..errors import BundleError
from .manifest import Manifest, Member


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Check the size and the SHA-256 of every member's file, without holding one in memory.

    Raises:
        BundleError: a file is missing, or is not the one that the manifest describes.
    """
    for member in manifest.members:
        path = bundle / member.file
        try:
            with path.open("rb") as file:
                size, digest = path.stat().st_size, hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise _unreadable(path, member, error) from error
        _compare(path, member, size, digest.hexdigest())


def read_model(bundle: Path, member: Member) -> bytes:
    """Read a member's ONNX file once and check it, so that what was verified is what runs.

    Raises:
        BundleError: the file is missing, or is not the one that the manifest describes.
    """
    path = bundle / member.file
    try:
        model = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, member, error) from error
    _compare(path, member, len(model), hashlib.sha256(model).hexdigest())
    return model


def _unreadable(path: Path, member: Member, error: OSError) -> BundleError:
    return BundleError(
        f"{path}, the file of member {member.name!r}, can't be read ({error.strerror}): "
        "restore it or export the bundle again"
    )


def _compare(path: Path, member: Member, size: int, sha256: str) -> None:
    if size != member.bytes:
        found, expected = f"{size} bytes", f"{member.bytes} bytes"
    elif sha256 != member.sha256:
        found, expected = f"SHA-256 {sha256}", f"SHA-256 {member.sha256}"
    else:
        return
    raise BundleError(
        f"{path} has {found}, but the manifest says {expected}: "
        "the file is damaged or belongs to another bundle"
    )
