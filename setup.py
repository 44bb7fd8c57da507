"""Build the distribution: the folder `app`, as the package `rooftrace`, with the shipped models.

pyproject.toml has all the rest. The list of packages is computed here, so that it can't be wrong.
"""

from setuptools import find_packages, setup

NAME = "rooftrace"

setup(
    packages=[NAME, *(f"{NAME}.{package}" for package in find_packages("app")), f"{NAME}.models"],
    package_dir={NAME: "app", f"{NAME}.models": "models"},
    package_data={NAME: ["py.typed", "web/**/*"], f"{NAME}.models": ["rooftrace-*/*"]},
)
