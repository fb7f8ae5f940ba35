"""Harvard-GF3300: thickness maps of the retinal nerve fibre layer from optical coherence tomography."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from vlmed.data.harvard import HarvardSource


class GF3300Source(HarvardSource):
    """3,300 patients, one eye each; `rnflt` is the map, (200, 200), from -2 to 350 micrometres."""

    name = "gf3300"
    array = "rnflt"
    hint = (
        "Get Harvard-GF3300 from https://ophai.hms.harvard.edu/datasets/harvard-gf3300/ (CC BY-NC-ND 4.0: "
        "non-commercial research only) and keep data_summary.csv, Training/, Validation/, Test/."
    )

    def grey_levels(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Thickness in micrometres to grey levels, -2 to 0 and 350 to 255, as in the paper by Zhong et al."""
        return (values + 2.0) / 352.0 * 255.0 if values.dtype.kind in "uif" else values
