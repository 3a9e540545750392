"""Pictures against stored images, with the version of matplotlib that drew these; another one draws letters otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import matplotlib
from matplotlib.testing.compare import compare_images

from tests.plots.pictures import PICTURES, save

BASELINE = Path(__file__).parent / "baseline"
MADE_BY = (BASELINE / "matplotlib.txt").read_text().strip()
#: root mean square of the difference in levels of 0..255; REML in place of ML moves these pictures by 4 to 28
TOLERANCE = 3.0


@pytest.mark.skipif(
    ".".join(matplotlib.__version__.split(".")[:2]) != MADE_BY,
    reason=f"the images are those of matplotlib {MADE_BY}",
)
@pytest.mark.parametrize("name", list(PICTURES))
def test_a_picture_looks_as_it_did(name, tmp_path):
    save(name, tmp_path / f"{name}.png")
    assert (
        compare_images(str(BASELINE / f"{name}.png"), str(tmp_path / f"{name}.png"), TOLERANCE)
        is None
    )


def test_every_picture_has_one_image_and_they_are_small():
    stored = sorted(BASELINE.glob("*.png"))
    assert [path.stem for path in stored] == sorted(PICTURES)
    assert sum(path.stat().st_size for path in stored) < 600_000
