"""Check that a bundle's files are the ones that its manifest describes."""

import hashlib
from pathlib import Path

from ..errors import BundleError
from .manifest import Manifest, Member


def verify_files(bundle: Path, manifest: Manifest) -> None:
    """Check every member's file, one after the other.

    Raises:
        BundleError: as `read_model`.
    """
    for member in manifest.members:
        read_model(bundle, member)


def read_model(bundle: Path, member: Member) -> bytes:
    """Read a member's ONNX file once and check it, so that what was verified is what runs.

    Raises:
        BundleError: the file is missing, or is not the one that the manifest describes.
    """
    path = bundle / member.file
    try:
        model = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}, the file of member {member.name!r}, can't be read ({error.strerror}): "
            "restore it or export the bundle again"
        ) from error
    sha256 = hashlib.sha256(model).hexdigest()
    if len(model) != member.bytes:
        found, expected = f"{len(model)} bytes", f"{member.bytes} bytes"
    elif sha256 != member.sha256:
        found, expected = f"SHA-256 {sha256}", f"SHA-256 {member.sha256}"
    else:
        return model
    raise BundleError(
        f"{path} has {found}, but the manifest says {expected}: "
        "the file is damaged or belongs to another bundle"
    )
