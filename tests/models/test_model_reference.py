import subprocess
import sys
from pathlib import Path

import pytest

from vlmed.errors import UsageError
from vlmed.models.reference import Reference, check_references, parse_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai/clip-vit-base-patch32", Reference("hf", "openai/clip-vit-base-patch32")),
        ("gpt2", Reference("hf", "gpt2")),
        (f"hf:vinid/plip@{COMMIT}", Reference("hf", "vinid/plip", COMMIT)),
        ("vinid/plip@refs/pr/4", Reference("hf", "vinid/plip", "refs/pr/4")),
        ("datasets/axiong/pmc_oa", Reference("hf", "datasets/axiong/pmc_oa")),
        (f"hf:datasets/axiong/pmc_oa@{COMMIT}", Reference("hf", "datasets/axiong/pmc_oa", COMMIT)),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", Reference("open_clip", "ViT-B-32/laion2b_s34b_b79k")),
        ("open_clip:org/name@v1.0", Reference("open_clip", "org/name", "v1.0")),
        ("dir:./a model", Reference("dir", "./a model")),
        ("dir:/data/run@3", Reference("dir", "/data/run@3")),
        (f"dir:/data/run@{CONTENT}", Reference("dir", "/data/run", CONTENT)),
        ("endpoint:http://localhost:8000/v1#org/name", Reference("endpoint", "http://localhost:8000/v1#org/name")),
        ("endpoint:https://host#llava:7b@q4", Reference("endpoint", "https://host#llava:7b@q4")),
        (f"endpoint:https://host/v1#m@{CONTENT}", Reference("endpoint", "https://host/v1#m", CONTENT)),
        ("control:random", Reference("control", "random")),
        ("control:blank/dir:/data/run", Reference("control", "blank/dir:/data/run")),
        (f"control:blank/org/name@{COMMIT}", Reference("control", f"blank/org/name@{COMMIT}")),
    ],
)
def test_reads_every_scheme_and_writes_it_back(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" org/name", "blanks around"),
        ("hf:", "empty"),
        ("hf: org/name", "blanks around"),
        ("org/name/more", "repository is"),
        ("datasets/org/name/more", "repository is"),
        ("datasets//name", "repository is"),
        ("org name", "repository is"),
        ("org/name@", "after '@'"),
        ("org/name@a b", "after '@'"),
        ("org/name@a@b", "after '@'"),
        ("./model", "write dir:./model"),
        ("/data/model", "write dir:/data/model"),
        ("~/model", "write dir:~/model"),
        ("open_clip:", "empty"),
        ("endpoint:localhost:8000#org/name", "http://"),
        ("endpoint:http://#org/name", "http://"),
        ("endpoint:http://localhost:8000/v1", "write endpoint:http://localhost:8000/v1#MODEL"),
        ("endpoint:http://localhost:8000/v1#", "write endpoint:http://localhost:8000/v1#MODEL"),
        ("endpoint:http://localhost:8000/v1#a b", "after '#'"),
        ("hg:org/name", "'hf'"),
        ("open-clip:org/name", "repository is"),
        ("openclip:org/name", "'open_clip'"),
        ("control:majorty", "'majority'"),
        ("control:random/org/name", "takes no model"),
        ("control:blank", "needs a model"),
        ("control:swapped", "needs a model"),
        ("control:blank/control:random", "not another control"),
        ("control:blank/./model", "write dir:./model"),
        ("majority", "write control:majority"),
        ("https://huggingface.co/vinid/plip", "write vinid/plip"),
        ("hf:hf.co/vinid/plip/tree/v1", "write vinid/plip@v1"),
        ("www.huggingface.co/datasets/axiong/pmc_oa/blob/main/checkpoint.pt", "write datasets/axiong/pmc_oa@main"),
        ("control:blank/https://hf.co/vinid/plip", "write vinid/plip"),
    ],
)
def test_refuses_what_is_no_reference(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_that_is_amiss_with_references_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_references(["vinid/plip", None, "gpt2", "hf:majority", "dir:model", "control:majority"])
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError) as caught:
        check_references(["oracle", None, "model", "hf:model", "org name"])
    assert [problem.hint for problem in caught.value.problems] == [
        "write control:oracle", "write dir:model or hf:model", ""
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["https://me:s3cret@host/v1", "https://s3cret@host", "https://host/v1?key=s3cret"])
def test_an_endpoint_with_a_password_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="VLMED_ENDPOINT_KEY") as caught:
        parse_reference(f"endpoint:{url}#model")
    assert "s3cret" not in str(caught.value)


def test_references_protocols_and_controls_need_no_torch() -> None:
    modules = "reference, protocols, controls, resolve, snapshot, adapter_base, load"
    code = f"import sys; from vlmed.models import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
