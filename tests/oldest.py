"""Print the oldest version of each requirement that pyproject.toml allows, those of the extras too, for pip.

python tests/oldest.py
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
print(*(line.replace(">=", "==") for group in groups for line in group), sep="\n")
