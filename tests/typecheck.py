"""Type-check the mapped layout: mypy cannot read `package-dir`, so it gets the tree as installed.

python tests/typecheck.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
with tempfile.TemporaryDirectory() as tmp:
    package = Path(tmp, "edgesr")
    package.mkdir()
    for path in [
        *(root / "edgesr").iterdir(),
        *(root / n for n in ("export", "distill", "runtime")),
    ]:
        (package / path.name).symlink_to(path)
    config = [
        "--config-file",
        str(root / "pyproject.toml"),
        "--cache-dir",
        str(root / ".mypy_cache"),
    ]
    command = [sys.executable, "-m", "mypy", *config, "-p", "edgesr"]
    sys.exit(subprocess.run(command, cwd=tmp, check=False).returncode)
