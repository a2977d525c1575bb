"""Print the oldest release series of each requirement that pyproject.toml allows, for pip.

python tests/oldest.py
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
print(*(line.replace(">=", "==") + ".*" for line in project["dependencies"]), sep="\n")
