"""The short form of benchmarks/chaos.py: ten random kills and disk troubles over sweeps on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SEED = os.environ.get("ABLAB_CHAOS_SEED", "0")


def test_ten_disturbances_change_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "chaos.py"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, script, "10", SEED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("undisturbed"), done.stdout
    assert "10 disturbances" in done.stdout
