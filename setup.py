"""What pyproject.toml cannot say: `recipes/` and `metrics/` lie beside `src/`, and inside the package in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithFolders(build_py):
    """Copies both folders into the package. An editable install reads them where they are."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for name in ("recipes", "metrics"):
                inside = Path(self.build_lib, "hf_instructmine", name)
                shutil.rmtree(inside, ignore_errors=True)  # of an earlier build
                shutil.copytree(name, inside, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithFolders})
