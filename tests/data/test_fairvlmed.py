import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmed.data.fairvlmed import FairVLMedSource
from vlmed.errors import InputError, MissingError

HEADER = "filename,age,gender,race,ethnicity,language,maritalstatus,note,gpt4_summary,glaucoma,use"
ROWS = [
    'data_00001.npz,56.56,female,black,non-hispanic,english,single,"a note, with\ntwo lines",short,yes,training',
    "data_07001.npz,66.52,male,white,unknown,unknown,unknown,a note,short,no,validation",
    "data_08001.npz,82.52,female,asian,hispanic,other,divorced,a note,short,yes,test",
]


def _lay_out(root: Path, summary=".", slo=None) -> Path:
    for name in (summary, "Training", "Validation", "Test"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / summary / "data_summary.csv").write_text("\n".join([HEADER, *ROWS, ""]))
    slo = np.arange(664 * 512).reshape(664, 512) % 256 if slo is None else slo
    np.savez(root / "Test" / "data_08001.npz", slo_fundus=slo, glaucoma=1, race=0, note="a note")
    return root


@pytest.mark.parametrize("inner", [".", "Harvard-FairVLMed10k"])
@pytest.mark.parametrize("summary", [".", "ReadMe"])
def test_the_published_summary(tmp_path, inner, summary):
    _lay_out(tmp_path / inner, summary)
    records = FairVLMedSource({}, tmp_path).records()
    assert [record.id for record in records] == [f"fairvlmed-data_{n}" for n in ("00001", "07001", "08001")]
    assert [(record.split, record.image) for record in records] == [
        ("train", "Training/data_00001"),
        ("val", "Validation/data_07001"),
        ("test", "Test/data_08001"),
    ]
    assert [record.fields["label"] for record in records] == ["yes", "no", "yes"]
    assert records[0].fields["note"] == "a note, with\ntwo lines"
    assert (records[2].fields["sex"], records[2].fields["age_band"], records[2].fields["race"]) == (
        "female",
        "80-89",
        "asian",
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_grey_levels_are_kept(tmp_path, dtype):
    slo = (np.arange(664 * 512).reshape(664, 512) % 256).astype(dtype)
    image = FairVLMedSource({}, _lay_out(tmp_path, slo=slo)).image("Test/data_08001")
    assert (np.asarray(Image.open(io.BytesIO(image))) == slo).all()


def test_a_colour_image_is_refused(tmp_path):
    source = FairVLMedSource({}, _lay_out(tmp_path, slo=np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(InputError, match="no grey image"):
        source.image("Test/data_08001")


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(MissingError, match=r"data_summary\.csv.*\n.*fairvlmed10k"):
        FairVLMedSource({}, tmp_path).records()
    with pytest.raises(MissingError, match=r"data_00001\.npz.*\n.*non-commercial"):
        FairVLMedSource({}, _lay_out(tmp_path)).image("Training/data_00001")
