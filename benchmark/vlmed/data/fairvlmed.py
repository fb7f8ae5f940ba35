"""Harvard-FairVLMed10k: scanning laser ophthalmoscopy fundus images with clinical notes."""

from __future__ import annotations

from vlmed.data.harvard import HarvardSource


class FairVLMedSource(HarvardSource):
    """10,000 patients, one eye each; `slo_fundus` is the image, (664, 512), grey.

    The summary's further columns `note` and `gpt4_summary` are fields, too, where the copy has them.
    """

    name = "fairvlmed"
    array = "slo_fundus"
    hint = (
        "Get Harvard-FairVLMed10k from https://ophai.hms.harvard.edu/datasets/harvard-fairvlmed10k/ (CC BY-NC-ND 4.0: "
        "non-commercial research only) and keep data_summary.csv, Training/, Validation/, Test/."
    )
