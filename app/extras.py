"""Packages that need not be installed: each comes with an extra of `rooftrace`."""

import importlib.util

from .errors import RooftraceError, SettingsError


def check_extra(
    what: str, extra: str, *packages: str, error: type[RooftraceError] = SettingsError
) -> None:
    """Check that the packages that `what` needs are installed. Import them only after that.

    Raises:
        RooftraceError: some are not, as an `error`.
    """
    if missing := [name for name in packages if not _is_there(name)]:
        raise error(
            f"{what} needs {' and '.join(missing)}, the extra `{extra}`: "
            f"pip install 'rooftrace[{extra}]', or build the container image with EXTRAS={extra}"
        )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
