"""Packages: the folders stand at the top of the tree and are installed inside `diva_grpo`, each with all of its files.

Packages are found here, because pyproject.toml can map only one folder to packages it finds.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "diva_grpo": "diva_grpo",
    "diva_grpo.data": "data",
    "diva_grpo.flows": "flows",
    "diva_grpo.pipeline": "pipeline",
    "diva_grpo.schemas": "schemas",
    "diva_grpo.trainer": "trainer",
}

# What writes the data and the pictures of the documents stays in the repository.
LEFT_OUT = ["*__pycache__*", "scripts*", "screens*"]

setup(
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (
            name,
            *(f"{name}.{found}" for found in find_namespace_packages(folder, exclude=LEFT_OUT)),
        )
    ],
    package_dir=FOLDERS,
    package_data={"": ["*"]},
    include_package_data=False,
)
