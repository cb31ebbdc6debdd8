"""Packages to install: src/counterpoise, and conf/ as `counterpoise.conf`, which forks compose with pkg://."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[*find_packages("src"), *find_namespace_packages("src", include=["hydra_plugins.*"]), "counterpoise.conf"],
    package_dir={"": "src", "counterpoise.conf": "conf"},
    package_data={
        "counterpoise": [
            "py.typed",
            "commands/model_card.md",
            "commands/try_texts.html",
            "commands/fork_template/**/*",
            "commands/fork_template/.gitignore",
        ],
        "counterpoise.conf": ["**/*.yaml"],
        "counterpoise.report": ["templates/**/*"],
    },
)
