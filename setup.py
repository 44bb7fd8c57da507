"""Build the distribution: the folder `app` is installed as a package, and the shipped models in it.

pyproject.toml has all the rest. The list of packages is computed here, so that it can't be wrong.
"""

from setuptools import find_packages, setup

NAME = "app"

setup(
    packages=[NAME, *(f"{NAME}.{package}" for package in find_packages("app")), f"{NAME}.models"],
    package_dir={NAME: "app", f"{NAME}.models": "models"},
    package_data={NAME: ["py.typed", "web/*"], f"{NAME}.models": ["rooftrace-*/*"]},
)
