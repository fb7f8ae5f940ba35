import json
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from PIL import Image

from endpoint_server import EndpointServer, Fault
from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.hashing import pixel_hash
from vlmed.models.answer_cache import AnswerCache
from vlmed.models.budget import Budget, parse_budget
from vlmed.models.endpoint import UNPINNED, EndpointGenerator
from vlmed.models.endpoint_client import ChatClient, Patience
from vlmed.models.load import load_model
from vlmed.models.protocols import Generator, Request

KEY = "sk-very-secret-0123456789"
MODEL = "org/tiny"
REVISION = "sha256:" + "ab" * 32
QUICK = Patience(attempts=4, first=0.01, longest=0.05, retry_after=2.0, timeout=5.0)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer([MODEL], KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLMED_ENDPOINT_KEY", KEY)
    for name in ("OPENAI_API_KEY", "VLMED_ENDPOINT_BUDGET"):
        monkeypatch.delenv(name, raising=False)


def generator(
    server: EndpointServer,
    cache: Path | None = None,
    *,
    patience: Patience = QUICK,
    budget: Budget | None = None,
    in_flight: int = 8,
    key: str = KEY,
) -> EndpointGenerator:
    client = ChatClient(server.url, key, patience, budget or Budget(), in_flight)
    return EndpointGenerator(client, MODEL, REVISION, cache)


def questions(count: int, image: Image.Image | None = None) -> list[Request]:
    return [Request(image, f"Question {number}?", max_tokens=5) for number in range(count)]


def failure(model: EndpointGenerator, requests: list[Request]) -> VlmedError:
    """The error, whose text and traceback never show the key."""
    with pytest.raises(VlmedError) as caught:
        model.answer(requests)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in repr(model.client)
    return caught.value


def test_answers_in_order_and_sends_pixels_unchanged(server: EndpointServer, images: list[Image.Image]) -> None:
    server.faults = [Fault(slow=0.2)]  # the first answer comes last
    requests = [Request(images[0], "Colour?", 7), Request(images[1], "Grey?", 7), Request(None, "Blind?", 9)]
    colour, grey = (pixel_hash(image.convert("RGB")) for image in images)
    assert generator(server).answer(requests) == [f"Colour? | {colour}", f"Grey? | {grey}", "Blind? | None"]
    assert {body["temperature"] for body in server.bodies} == {0}
    assert sorted(body["max_tokens"] for body in server.bodies) == [7, 7, 9]


def test_is_a_generator_and_answers_nothing_to_nothing(server: EndpointServer) -> None:
    model = generator(server)
    assert isinstance(model, Generator)
    assert model.answer([]) == []


def test_equal_requests_are_asked_once_and_others_each(server: EndpointServer, images: list[Image.Image]) -> None:
    same = [Request(images[0], "Same?", 5), Request(images[0].copy(), "Same?", 5)]
    others = [Request(images[1], "Same?", 5), Request(images[0], "Same?", 6), Request(None, "Same?", 5)]
    answers = generator(server).answer(same + others)
    assert answers[0] == answers[1]
    assert len(server.asked) == 4


def test_many_requests_are_under_way_at_once_but_not_more_than_allowed() -> None:
    with EndpointServer([MODEL], KEY, latency=0.1) as server:
        generator(server, in_flight=6).answer(questions(18))
    assert server.most_at_once == 6


def test_deep_images_are_named(server: EndpointServer, tmp_path: Path) -> None:
    model = generator(server, tmp_path)
    with pytest.raises(InputError, match="8 bits") as caught:
        model.answer([*questions(1), Request(Image.new("I;16", (4, 4)), "Deep?", 5)])
    assert caught.value.problems[0].path == "request 1"
    assert model.answer(questions(1)) == ["Question 0? | None"]


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=500)],
        [Fault(status=503), Fault(status=502), Fault(status=504)],
        [Fault(status=429, headers={"Retry-After": "0"})],
        [Fault(status=429, headers={"Retry-After": "soon"})],
        [Fault(cut=True)],
        [Fault(body=b"")],
        [Fault(body=b'{"choices": [{"mess')],
        [Fault(body=b'{"error": "overloaded"}')],
        [Fault(body=b"[" * 100_000)],
        [Fault(status=500), Fault(cut=True), Fault(status=429)],
    ],
    ids=lambda faults: "+".join("cut" if each.cut else str(each.body or each.status)[:12] for each in faults),
)
def test_tries_again_after_what_may_pass(server: EndpointServer, faults: list[Fault]) -> None:
    server.faults = list(faults)
    assert generator(server, in_flight=1).answer(questions(2)) == ["Question 0? | None", "Question 1? | None"]
    assert len(server.asked) == 2 + len(faults)
    deadline = time.monotonic() + 10  # the client may have the answer before the server has noted that it was sent
    while len(server.answered) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.answered) == 2


@pytest.mark.parametrize(
    "form", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"]
)
def test_waits_as_long_as_the_server_asks(server: EndpointServer, form: object) -> None:
    server.faults = [Fault(status=429, headers={"Retry-After": form()})]  # type: ignore[operator]
    start = time.monotonic()
    generator(server, patience=Patience(first=0.0, retry_after=5.0)).answer(questions(1))
    assert time.monotonic() - start >= 0.9


def test_does_not_wait_longer_than_allowed(server: EndpointServer) -> None:
    server.faults = [Fault(status=429, headers={"Retry-After": "86400"})]
    error = failure(generator(server), questions(1))
    assert "asks to wait 86400 s" in str(error)
    assert len(server.asked) == 1


def test_waits_grow_up_to_the_longest_and_differ_by_chance() -> None:
    patience = Patience(first=1.0, longest=60.0)
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        waits = {patience.wait(attempt) for _ in range(50)}
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(waits) > 1


def test_gives_up_in_the_end_and_names_request_status_and_body(server: EndpointServer) -> None:
    server.faults = [Fault(), *[Fault(status=500, body=b"out of  memory\n" + KEY.encode())] * 4]
    error = failure(generator(server, in_flight=1), questions(3))
    assert error.exit_code == 2
    first, last = error.problems
    assert (first.file, first.path) == (server.url, "request 1")
    assert first.what == "the server failed 4 times in a row"
    assert first.got == "status 500: out of memory [key]"
    assert last.severity == "warning"
    assert last.what == "1 of 3 answers are kept"
    assert len(server.asked) == 5


def test_slow_answers_are_waited_for_and_endless_ones_are_not(server: EndpointServer) -> None:
    patience = Patience(attempts=2, first=0.01, timeout=0.5)
    server.faults = [Fault(slow=0.2), Fault(slow=1.0), Fault(drip=0.1)]
    model = generator(server, patience=patience, in_flight=1)
    assert model.answer(questions(1)) == ["Question 0? | None"]
    error = failure(model, questions(2))
    assert error.problems[0].path == "request 1"
    assert "did not end within 0.5 s" in str(error)


def test_long_bodies_are_shortened(server: EndpointServer) -> None:
    server.faults = [Fault(status=404, body=b"<html>" + b"x" * 10_000)]
    assert len(str(failure(generator(server), questions(1)))) < 1000


def test_refused_requests_are_collected_and_the_others_answered(server: EndpointServer, tmp_path: Path) -> None:
    server.refused = {"Question 1?", "Question 3?"}
    model = generator(server, tmp_path)
    error = failure(model, questions(5))
    assert [problem.path for problem in error.problems] == ["request 1", "request 3", ""]
    assert "status 400" in error.problems[0].got
    assert "This prompt is refused." in error.problems[0].got
    assert error.problems[-1].what == "3 of 5 answers are kept"
    assert len(server.asked) == 5
    server.refused = set()
    assert len(model.answer(questions(5))) == 5
    assert Counter(server.answered).most_common(1)[0][1] == 1


def test_a_model_that_refuses_everything_is_not_asked_to_the_end(server: EndpointServer) -> None:
    server.refused = {request.prompt for request in questions(500)}
    failure(generator(server), questions(500))
    assert 32 <= len(server.asked) < 64


def test_a_wrong_key_stops_at_once_and_says_what_to_set(server: EndpointServer) -> None:
    error = failure(generator(server, key="wrong-key-1", in_flight=2), questions(50))
    assert "status 401" in str(error)
    assert "wrong-key-1" not in str(error)
    assert "VLMED_ENDPOINT_KEY" in error.problems[0].hint
    assert len(server.keys_seen) == 1
    assert len(error.problems) <= 3  # at most one for each of the two, and what is kept


def test_a_model_that_vanished_stops_at_once(server: EndpointServer) -> None:
    server.models = ["org/other"]
    error = failure(generator(server, in_flight=2), questions(50))
    assert "status 404: " in str(error)
    assert "org/tiny" in str(error)
    assert server.asked == []


def test_redirects_are_not_followed_with_the_key(server: EndpointServer) -> None:
    with EndpointServer([MODEL]) as elsewhere:
        server.faults = [Fault(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})]
        assert "status 307" in str(failure(generator(server), questions(1)))
        assert elsewhere.keys_seen == set()


def test_a_server_that_is_not_there_is_named() -> None:
    with EndpointServer([MODEL], KEY) as gone:
        pass
    error = failure(generator(gone), questions(1))
    assert "ConnectError" in str(error)
    assert gone.url in str(error)


def test_no_answer_is_an_empty_answer(server: EndpointServer) -> None:
    server.faults = [Fault(body=json.dumps({"choices": [{"message": {"content": None}}]}).encode())]
    assert generator(server).answer(questions(1)) == [""]


# --- kept answers ---


def test_a_second_run_asks_nothing(server: EndpointServer, tmp_path: Path, images: list[Image.Image]) -> None:
    first = generator(server, tmp_path).answer(questions(5, images[0]))
    assert generator(server, tmp_path).answer(questions(5, images[0])) == first
    assert len(server.asked) == 5
    other = EndpointGenerator(ChatClient(server.url, KEY), MODEL, "sha256:" + "cd" * 32, tmp_path)
    assert other.answer(questions(5, images[0])) == first
    assert len(server.asked) == 10


def test_a_half_written_line_is_asked_again_and_spoils_nothing(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    cache = AnswerCache(file)
    cache["a"], cache["b"] = "first, with\na break", "naïve 片"
    file.write_bytes(file.read_bytes()[:-4])
    again = AnswerCache(file)
    assert again["a"] == "first, with\na break"
    assert "b" not in again
    again["c"] = "third"
    again["b"] = "second"
    read = AnswerCache(file)
    assert [read[key] for key in "abc"] == ["first, with\na break", "second", "third"]


@pytest.mark.parametrize("junk", [b"\n[]", b"\n3", b"\n{}", b"\n\xff\xfe", b'\n{"key": 1}', b"\nnull"])
def test_lines_that_are_no_answers_are_passed_over(tmp_path: Path, junk: bytes) -> None:
    file = tmp_path / "answers.jsonl"
    AnswerCache(file)["a"] = "kept"
    file.write_bytes(junk + file.read_bytes() + junk)
    assert AnswerCache(file)["a"] == "kept"


def test_a_folder_that_cannot_be_written_is_named(server: EndpointServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be kept" in str(failure(generator(server, tmp_path / "file" / "inside"), questions(1)))


def test_a_server_killed_and_restarted_loses_nothing_and_is_asked_nothing_twice(tmp_path: Path) -> None:
    with EndpointServer([MODEL], KEY, latency=0.05) as server:
        patience = Patience(attempts=20, first=0.05, longest=0.2)
        model = generator(server, tmp_path, patience=patience, in_flight=4)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.extend(model.answer(questions(40))))
        asking.start()
        for _ in range(2):
            answered = len(server.answered)
            while len(server.answered) < answered + 8:
                time.sleep(0.005)
            server.stop()
            time.sleep(0.1)
            server.start()
        asking.join()
    assert answers == [f"Question {number}? | None" for number in range(40)]
    assert Counter(server.answered) == {(f"Question {number}?", None): 1 for number in range(40)}
    assert len(server.asked) > 40  # those that were under way had to be asked again


def test_a_killed_run_asks_only_for_the_rest(server: EndpointServer, tmp_path: Path) -> None:
    server.latency = 0.05
    code = (
        "import sys; from vlmed.models.endpoint import EndpointGenerator; "
        "from vlmed.models.endpoint_client import ChatClient; from vlmed.models.protocols import Request; "
        "from pathlib import Path; url, key, model, revision, cache = sys.argv[1:]; "
        "EndpointGenerator(ChatClient(url, key, connections=4), model, revision, Path(cache))"
        ".answer([Request(None, f'Question {number}?', 5) for number in range(200)])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.url, KEY, MODEL, REVISION, str(tmp_path)])
    while len(server.answered) < 20:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (file,) = tmp_path.glob("*.jsonl")
    kept = [json.loads(line)["answer"] for line in file.read_text().splitlines() if line]
    assert len(kept) >= 16
    server.latency = 0.0
    time.sleep(0.1)
    server.asked.clear()
    assert len(generator(server, tmp_path).answer(questions(200))) == 200
    assert {f"{prompt} | None" for prompt, _ in server.asked}.isdisjoint(kept)
    assert len(server.asked) == 200 - len(kept)


# --- the budget ---


def test_the_request_budget_stops_before_it_is_passed(server: EndpointServer, tmp_path: Path) -> None:
    error = failure(generator(server, tmp_path, budget=Budget(requests=7)), questions(20))
    assert len(server.asked) == 7
    assert "the budget is spent" in str(error)
    assert "7 of 7 requests" in error.problems[0].got
    assert error.problems[-1].what == "7 of 20 answers are kept"
    assert len(generator(server, tmp_path, budget=Budget(requests=13)).answer(questions(20))) == 20
    assert len(server.asked) == 20


def test_further_attempts_cost_requests_too(server: EndpointServer) -> None:
    server.faults = [Fault(status=500)] * 3
    failure(generator(server, budget=Budget(requests=3)), questions(1))
    assert len(server.asked) == 3


def test_the_token_budget_stops_before_it_is_passed(tmp_path: Path) -> None:
    # Each request is reckoned with 11 bytes, 256 for the template and 5 to answer, and takes 200.
    with EndpointServer([MODEL], KEY, usage=200) as server:
        budget = Budget(tokens=2000)
        error = failure(generator(server, tmp_path, budget=budget), questions(20))
        assert len(server.asked) == 9
        assert budget.spent == {"requests": 9, "tokens": 1800}
        assert "1800 of 2000 tokens" in error.problems[0].got


@pytest.mark.parametrize("fault", [Fault(cut=True), Fault(body=b"?"), Fault(slow=1.0)], ids=["cut", "junk", "late"])
def test_what_a_failed_attempt_may_have_cost_is_counted(server: EndpointServer, fault: Fault) -> None:
    server.faults = [fault]
    budget = Budget(tokens=1000)
    patience = Patience(attempts=2, first=0.01, timeout=0.5)
    generator(server, budget=budget, patience=patience).answer(questions(1))
    assert budget.spent["tokens"] == 11 + 256 + 5 + 10


def test_refused_attempts_cost_no_tokens(server: EndpointServer) -> None:
    server.faults = [Fault(status=429), Fault(status=500)]
    budget = Budget(tokens=1000)
    generator(server, budget=budget).answer(questions(1))
    assert budget.spent == {"requests": 3, "tokens": 10}


def test_servers_that_count_no_tokens_are_reckoned_with_the_most() -> None:
    with EndpointServer([MODEL], KEY, usage=None) as server:
        budget = Budget(tokens=30_000)
        generator(server, budget=budget).answer(questions(1, Image.new("RGB", (2000, 1400))))
        assert budget.spent["tokens"] == 143 * 100 + 11 + 256 + 5  # patches of 14 pixels
        generator(server, budget=budget).answer(questions(1, Image.new("RGB", (20, 20))))
        assert budget.spent["tokens"] == 143 * 100 + 4096 + 2 * (11 + 256 + 5)
        failure(generator(server, budget=budget), questions(1, Image.new("RGB", (2000, 1400))))
    assert len(server.asked) == 2


def test_a_budget_learns_from_requests_that_cost_more_than_reckoned() -> None:
    budget = Budget(tokens=1000)
    with budget.reserve(100) as used:
        used(300)
    with budget.reserve(100):
        pass
    assert budget.spent == {"requests": 2, "tokens": 600}
    with budget.reserve(200):
        pass
    with pytest.raises(VlmedError, match="the budget is spent"), budget.reserve(1):
        pass


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", (None, None)),
        (" ", (None, None)),
        ("requests=5", (5, None)),
        ("tokens=1_000_000", (None, 1_000_000)),
        ("tokens = 7, requests = 8", (8, 7)),
    ],
)
def test_reads_budgets(text: str, limits: tuple[int | None, int | None]) -> None:
    read = parse_budget(text).limits
    assert (read["requests"], read["tokens"]) == limits


@pytest.mark.parametrize("text", ["5", "requests=0", "requests=-1", "dollars=5", "tokens=5,", "tokens=5,tokens=6", "="])
def test_refuses_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="VLMED_ENDPOINT_BUDGET"):
        parse_budget(text)


# --- by reference ---


def test_loads_by_reference(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = f"endpoint:{server.url}#{MODEL}"
    loaded = load_model(ref)
    info = loaded.info
    assert (info.ref, info.name, info.family, info.kind, info.parameters) == (ref, MODEL, "endpoint", "generator", 0)
    assert info.architecture == "/org/tiny"
    assert info.warnings == (UNPINNED,)
    assert KEY not in json.dumps(info.to_json())
    assert isinstance(loaded.predictor, Generator)
    assert loaded.predictor.answer(questions(2)) == ["Question 0? | None", "Question 1? | None"]
    # `created` is another at every call, and the revision is not.
    again = load_model(f"{ref}@{info.revision}")
    assert again.info.revision == info.revision
    assert again.predictor.answer(questions(2)) == ["Question 0? | None", "Question 1? | None"]
    assert len(server.asked) == 2


def test_its_info_fits_the_result_schema(server: EndpointServer) -> None:
    import vlmed

    schema = json.loads((Path(vlmed.__file__).parent / "schemas" / "result.schema.json").read_text("utf-8"))
    part = {"$ref": "#/$defs/model", "$defs": schema["$defs"]}
    jsonschema.validate(load_model(f"endpoint:{server.url}/#{MODEL}").info.to_json(), part)


def test_the_environment_limits_what_is_spent(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMED_ENDPOINT_BUDGET", "requests=3")
    model = load_model(f"endpoint:{server.url}#{MODEL}").predictor
    assert isinstance(model, EndpointGenerator)
    assert "3 of 10 answers are kept" in str(failure(model, questions(10)))
    monkeypatch.setenv("VLMED_ENDPOINT_BUDGET", "3")
    with pytest.raises(UsageError, match="this is no budget"):
        load_model(f"endpoint:{server.url}#{MODEL}")


def test_a_model_that_is_not_served_is_refused_with_those_that_are(server: EndpointServer) -> None:
    with pytest.raises(UsageError, match="'org/tiny'"):
        load_model(f"endpoint:{server.url}#org/tinny")


def test_another_revision_is_refused(server: EndpointServer) -> None:
    with pytest.raises(UsageError, match="something else"):
        load_model(f"endpoint:{server.url}#{MODEL}@{REVISION}")


def test_adapters_are_refused(server: EndpointServer) -> None:
    with pytest.raises(UsageError, match="takes no adapter"):
        load_model(f"endpoint:{server.url}#{MODEL}", adapter="org/lora")


def test_a_server_without_a_list_of_models_serves(server: EndpointServer) -> None:
    server.lists_models = False
    loaded = load_model(f"endpoint:{server.url}#{MODEL}")
    assert loaded.info.architecture == MODEL
    assert loaded.info.revision.startswith("sha256:")
    assert len(loaded.predictor.answer(questions(1))) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("listed", [b"[]", b'{"data": {}}', b'{"data": [3]}'])
def test_odd_lists_of_models_do_not_crash(listed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ChatClient("http://127.0.0.1:9/v1")
    monkeypatch.setattr(client, "_exchange", lambda *_: SimpleNamespace(status=200, content=listed))
    assert client.models() in (None, [])


@pytest.mark.parametrize("key", ["sk secret", "sk-secret\nmore", "schlüssel-secret"])
def test_malformed_keys_are_refused_and_not_shown(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("VLMED_ENDPOINT_KEY", key)
    with pytest.raises(UsageError, match="the key in the environment") as caught:
        load_model(f"endpoint:{server.url}#{MODEL}")
    assert "secret" not in str(caught.value)


def test_a_wrong_key_is_told_on_loading(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMED_ENDPOINT_KEY", "sk-wrong-secret")
    with pytest.raises(VlmedError, match="status 401") as caught:
        load_model(f"endpoint:{server.url}#{MODEL}")
    assert "sk-wrong" not in "".join(traceback.format_exception(caught.value))


def test_openais_key_goes_to_openai_only(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmed.models.endpoint import key_for

    monkeypatch.delenv("VLMED_ENDPOINT_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with pytest.raises(VlmedError, match="status 401"):
        load_model(f"endpoint:{server.url}#{MODEL}")
    assert server.keys_seen == {""}
    assert key_for("https://api.openai.com/v1") == "sk-openai"
    assert key_for("https://eu.api.openai.com:443/v1") == "sk-openai"
    assert key_for("https://api.openai.com.evil.org/v1") == ""
    assert key_for("https://notopenai.com/v1") == ""
