"""The packages to install; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # conf/ is at the top of the checkout, where users edit it, and is installed
    # inside the package, where commands find it without a checkout.
    packages=[*find_packages(include=["espnet_mtla*"]), "espnet_mtla.conf"],
    package_dir={"espnet_mtla": "espnet_mtla", "espnet_mtla.conf": "conf"},
)
