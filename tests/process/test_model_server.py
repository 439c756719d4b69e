"""Model server as a process, with real models; tests/e2e covers a pod's network and probes."""

import asyncio
import gzip
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import pandas as pd
import psutil
import pytest
import requests
from mlflow.models import infer_signature
from process.claims import free_port
from process.steps import SCRIPTS
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from mlflow_stack.programs.prediction_size import weight
from mlflow_stack.servers import model_server as models

DATA = load_diabetes(as_frame=True).data
MOST = 1_000_000
# As in the pod's container.
LIMITS = {
    "REQUEST_SECONDS": "60",
    "PREDICTIONS": "8",
    "DRAIN_SECONDS": "50",
    "MEMORY_BYTES": str(2**30),
    "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": models.NO_LIMIT,
    "MLFLOW_TRACKING_URI": models.NO_TRACKING,
}
JSON = "application/json"
COLUMNS = list(DATA.columns)
SPLIT = {"columns": COLUMNS, "data": DATA.head(2).to_numpy().tolist()}
ROW = DATA.head(1).to_dict(orient="records")[0]


def model_folder(folder: Path, save: Callable[[str], object]) -> Path:
    """Create a pod's volume with a model."""
    save(str(folder / "model"))
    return folder


class Odd(mlflow.pyfunc.PythonModel):
    """Model that follows its input: sleeps, fails, or returns something that is not JSON."""

    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> object:
        what = model_input["what"][0]
        if what == "fail":
            raise ValueError("cannot read /srv/inside/model.py")
        if what == "odd":
            return [object()]
        if what == "ends":
            with Path("running").open("a") as running:
                running.write(what)
            while not Path("end").exists():
                time.sleep(0.05)
            return [what]
        with Path("started").open("a") as started:
            started.write(f"{what}\n")
        time.sleep(float(what))
        return [what]


class Traced(mlflow.pyfunc.PythonModel):
    """Model that traces itself, and tries MLflow's default store."""

    @mlflow.trace
    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> object:
        if model_input["what"][0] == "run":
            mlflow.set_experiment("mine")
        return [1]


class Late(mlflow.pyfunc.PythonModel):
    """Model that misses a library only when it predicts."""

    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> object:
        import no_such_library  # pyright: ignore[reportMissingImports]

        return no_such_library.loud(model_input)


@contextmanager
def running(volume: Path, log: Path, **env: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    environment = {
        **os.environ,
        "VOLUME": str(volume),
        "MODEL_URI": "models:/m/1",
        "PORT": str(port),
        "MAX_REQUEST_BYTES": str(MOST),
        **LIMITS,
        **env,
    }
    # A separate working folder, as in the pod.
    folder = volume / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = [sys.executable, str(SCRIPTS / "model_server.py")]
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stderr=file, cwd=folder) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            try:
                if requests.get(f"{url}/ping", timeout=5).status_code == 200:
                    break
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        try:
            yield url, process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def ridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Ridge().fit(DATA, range(len(DATA)))
    signature = infer_signature(DATA, model.predict(DATA))
    folder = tmp_path_factory.mktemp("ridge")
    more = ["no-such-library==6.1"]
    return model_folder(
        folder, lambda path: mlflow.sklearn.save_model(model, path, signature=signature, extra_pip_requirements=more)
    )


@pytest.fixture(scope="module")
def url(ridge: Path) -> Iterator[str]:
    with running(ridge, ridge / "log") as (url, _):
        yield url


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    # By value: the server's process cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    model = Odd()
    return model_folder(folder, lambda path: mlflow.pyfunc.save_model(path, python_model=model, pip_requirements=[]))


def predict(url: str, body: bytes, content_type: str | None = JSON) -> requests.Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return requests.post(f"{url}/invocations", data=body, headers=headers, timeout=120)


def refused(answer: requests.Response) -> dict[str, str]:
    """Check the body of an error: two fields, with nothing internal."""
    assert answer.headers["Content-Type"] == JSON
    body = answer.json()
    assert set(body) == {"error_code", "message"}
    assert len(body["message"]) <= 500
    for trace in ("Traceback", 'File "', ".py", "site-packages", str(SCRIPTS.parents[2])):
        assert trace not in answer.text
    assert not re.search(r"(/\w[\w.-]*){2,}", body["message"]), body["message"]
    return body


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps({"dataframe_split": {"columns": COLUMNS, "data": DATA.to_numpy().tolist()}}), JSON),
        (json.dumps({"dataframe_records": DATA.to_dict(orient="records")}), JSON),
        (json.dumps({"inputs": DATA.to_dict(orient="list")}), JSON),
        (DATA.to_csv(index=False), "text/csv"),
    ],
    ids=["split", "records", "inputs", "csv"],
)
def test_every_format_gives_the_local_model_s_predictions(ridge: Path, url: str, body: str, content_type: str) -> None:
    answer = predict(url, body.encode(), content_type)
    assert answer.json() == {"predictions": mlflow.pyfunc.load_model(str(ridge / "model")).predict(DATA).tolist()}


def j(value: object) -> bytes:
    return json.dumps(value).encode()


MALFORMED: dict[str, tuple[bytes, str | None, int]] = {
    "no body": (b"", JSON, 400),
    "blanks": (b"  ", JSON, 400),
    "cut off": (j({"dataframe_split": SPLIT})[:50], JSON, 400),
    "no JSON": (b"/etc/passwd", JSON, 400),
    "bytes": (bytes(range(256)), JSON, 400),
    "another encoding": (json.dumps({"inputs": 1}).encode("utf-16"), JSON, 400),
    "a number": (b"3", JSON, 400),
    "a text": (b'"x"', JSON, 400),
    "null": (b"null", JSON, 400),
    "a list": (b"[1]", JSON, 400),
    "an unknown key": (j({"data": [ROW]}), JSON, 400),
    "two keys": (j({"dataframe_split": SPLIT, "inputs": [ROW]}), JSON, 400),
    "split: no columns": (j({"dataframe_split": {"data": [[1]]}}), JSON, 400),
    "split: a text": (j({"dataframe_split": "x"}), JSON, 400),
    "split: null": (j({"dataframe_split": None}), JSON, 400),
    "split: ragged": (j({"dataframe_split": {"columns": COLUMNS, "data": [[1, 2], [3]]}}), JSON, 400),
    "split: one key more": (j({"dataframe_split": {**SPLIT, "more": 1}}), JSON, 400),
    "records: a map": (j({"dataframe_records": {"a": 1}}), JSON, 400),
    "records: none": (j({"dataframe_records": []}), JSON, 400),
    "records: lists": (j({"dataframe_records": [[1]]}), JSON, 400),
    "a missing column": (j({"dataframe_records": [{"age": 1.0}]}), JSON, 400),
    "a text for a number": (j({"dataframe_records": [{**ROW, "age": "old"}]}), JSON, 400),
    "null for a number": (j({"dataframe_records": [{**ROW, "age": None}]}), JSON, 400),
    "a map for a number": (j({"dataframe_records": [{**ROW, "age": {"a": [1]}}]}), JSON, 400),
    "NaN": (b'{"dataframe_records":[{"age":NaN}]}', JSON, 400),
    "infinity": (b'{"inputs": 1e999}', JSON, 400),
    "a very deep list": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400),
    "a very long number": (b'{"inputs":' + b"9" * 5000 + b"}", JSON, 400),
    "half a character": (b'{"inputs":"\\ud800"}', JSON, 400),
    "instances: ragged": (j({"instances": [[1], [1, 2]]}), JSON, 400),
    "a chat": (j({"messages": [{"role": "user", "content": "hi"}]}), JSON, 400),
    "csv: an open quote": (b'"open,1\n2', "text/csv", 400),
    "csv: nothing": (b"", "text/csv", 400),
    "csv: a missing column": (b"age\n1\n", "text/csv", 400),
    "csv: another encoding": ("ä,b\n1,2".encode("latin-1"), "text/csv", 400),
    "parquet: cut off": (b"PAR1", "application/vnd.apache.parquet", 400),
    "no content type": (j({"inputs": 1}), None, 415),
    "XML": (b"<a/>", "application/xml", 415),
    "a form": (b"a=b", "application/x-www-form-urlencoded", 415),
    "another charset": (b"{}", "application/json; charset=latin-1", 415),
    "an unknown parameter": (b"{}", "application/json; x=/etc/passwd", 415),
    "50 MB": (b"x" * 50_000_000, JSON, 413),
}


@pytest.mark.parametrize("shape", MALFORMED)
def test_a_malformed_request_is_refused_in_json_and_tells_nothing_of_the_inside(url: str, shape: str) -> None:
    body, content_type, status = MALFORMED[shape]
    answer = predict(url, body, content_type)
    assert answer.status_code == status, answer.text
    refused(answer)


def test_a_body_without_a_length_is_bounded_too(url: str) -> None:
    answer = predict(url, iter([b"x" * 100_000] * 11))  # pyright: ignore[reportArgumentType]
    assert answer.status_code == 413
    assert refused(answer) == {"error_code": "REQUEST_ENTITY_TOO_LARGE", "message": "the body may have 1000000 bytes"}
    assert predict(url, j({"dataframe_records": [ROW]})).status_code == 200


def test_four_pages_are_there_and_no_others(url: str) -> None:
    assert requests.get(f"{url}/version", timeout=10).text == mlflow.__version__
    assert [requests.get(url + page, timeout=10).status_code for page in ("/ping", "/health")] == [200, 200]
    for page in ("/", "/docs", "/openapi.json", "/invocations/", "//etc/passwd"):
        answer = requests.get(url + page, timeout=10)
        assert answer.status_code == 404, page
        assert refused(answer)["error_code"] == "NOT_FOUND"
    answer = requests.get(f"{url}/invocations", timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_what_the_model_s_own_code_does_is_told_without_its_inside(odd: Path) -> None:
    def ask(what: str) -> requests.Response:
        return predict(url, j({"dataframe_records": [{"what": what}]}))

    with running(odd, odd / "log", REQUEST_SECONDS="3") as (url, process):
        failed = ask("fail")
        assert (failed.status_code, refused(failed)["error_code"]) == (400, "BAD_REQUEST")
        answer = ask("odd")
        assert answer.status_code == 500
        assert refused(answer)["message"] == "the model's answer cannot be written as JSON"
        late = ask("9")
        assert (late.status_code, refused(late)["error_code"]) == (504, "GATEWAY_TIMEOUT")
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(ask, "2")
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert under_way.result().json() == {"predictions": ["2"]}
        assert process.wait(60) in (0, -signal.SIGTERM)
    assert "cannot read" in (odd / "log").read_text()


def ended(volume: Path) -> tuple[int, str]:
    """Start a server that must fail; return its exit code and the last line of its log."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "model_server.py")],
        env={
            **os.environ,
            "VOLUME": str(volume),
            "MODEL_URI": "models:/m/1",
            "PORT": "1",
            "MAX_REQUEST_BYTES": "1",
            **LIMITS,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


NO_SUCH_FLAVOR = "flavors:\n  python_function:\n    loader_module: no_such_library.flavor\nmodel_uuid: x\n"
LACKING = ["mlflow==1.0", "no-such-library==6.1", 'never; python_version < "3"', "requests==1.0", "-c limits.txt"]


def test_a_library_that_the_model_names_and_the_image_lacks_ends_the_start_by_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "requirements.txt").write_text("\n".join(LACKING))
    (tmp_path / "model" / "limits.txt").touch()
    (tmp_path / "model" / "MLmodel").write_text(NO_SUCH_FLAVOR)
    assert ended(tmp_path) == (
        1,
        "Refused: models:/m/1 needs the library no_such_library, and the image lacks no-such-library==6.1. "
        "Set `environment: install`, or an `image` that has it",
    )


def test_a_library_that_is_named_and_not_missed_is_a_warning(ridge: Path, url: str) -> None:
    assert predict(url, j({"dataframe_records": [ROW]})).status_code == 200
    assert "Warning: the image lacks what models:/m/1 names: no-such-library==6.1\n" in (ridge / "log").read_text()


def test_a_library_that_the_model_s_example_misses_ends_the_start_by_name(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    options = {"input_example": pd.DataFrame({"a": [1]}), "pip_requirements": ["no-such-library==6.1"]}
    model_folder(tmp_path, lambda path: mlflow.pyfunc.save_model(path, python_model=Late(), **options))
    code, said = ended(tmp_path)
    assert (code, said.partition(",")[0]) == (1, "Refused: models:/m/1 needs the library no_such_library")


def test_a_library_that_the_model_does_not_name_ends_the_start_by_name(ridge: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text(NO_SUCH_FLAVOR)
    assert ended(tmp_path) == (
        1,
        "Refused: models:/m/1 needs the library no_such_library, which the image lacks and the model does not name. "
        "Log the model with it in `extra_pip_requirements`, or set an `image` that has it",
    )


def test_what_the_steps_before_refused_is_said_again(tmp_path: Path) -> None:
    (tmp_path / "refused").write_text("Refused: models:/m/1 is not there\n")
    assert ended(tmp_path) == (1, "Refused: models:/m/1 is not there")


def ask(url: str, what: str, **options: Any) -> requests.Response:
    return requests.post(
        f"{url}/invocations", json={"dataframe_records": [{"what": what}]}, **{"timeout": 120, **options}
    )


def runs(volume: Path) -> int:
    """Return the number of endless predictions that have started."""
    note = volume / "work" / "running"
    return note.read_text().count("ends") if note.exists() else 0


def ready(url: str, page: str = "/ping") -> int:
    return requests.get(url + page, timeout=10).status_code


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def test_answers_at_the_limit_and_is_unready_until_a_place_is_free(odd: Path) -> None:
    with running(odd, odd / "log", REQUEST_SECONDS="2", PREDICTIONS="2") as (url, _), ThreadPoolExecutor(8) as pool:
        endless = [pool.submit(ask, url, "ends") for _ in range(2)]
        eventually(lambda: runs(odd) == 2)
        waiting = pool.submit(ask, url, "0")
        for answer in (*endless, waiting):
            assert refused(answer.result()) == {"error_code": "GATEWAY_TIMEOUT", "message": "no answer within 2 s"}
            # Answered at the limit, not when the prediction ends.
            assert answer.result().elapsed.total_seconds() < 20
        eventually(lambda: ready(url) == 503)
        assert ready(url, "/health") == 200
        full = ask(url, "1")
        assert (full.status_code, full.headers["Retry-After"]) == (429, "2")
        assert refused(full)["message"] == "every prediction that runs is past its limit"
        (odd / "work" / "end").touch()
        eventually(lambda: ready(url) == 200)
        assert ask(url, "0.01").json() == {"predictions": ["0.01"]}
        # Neither the request whose limit passed in the queue nor the refused one was started.
        assert (odd / "work" / "started").read_text() == "0.01\n"


def test_starts_no_prediction_whose_caller_has_gone(odd: Path) -> None:
    with running(odd, odd / "log", PREDICTIONS="1") as (url, _), ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, url, "ends")
        eventually(lambda: runs(odd) == 1)
        with pytest.raises(requests.ReadTimeout):
            ask(url, "0", timeout=1)
        (odd / "work" / "end").touch()
        assert first.result().json() == {"predictions": ["ends"]}
        assert ask(url, "0.02").json() == {"predictions": ["0.02"]}
        assert (odd / "work" / "started").read_text() == "0.02\n"


def test_bounds_how_many_predictions_wait(odd: Path) -> None:
    with running(odd, odd / "log", PREDICTIONS="1") as (url, _), ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(ask, url, "ends") for _ in range(9)]
        eventually(lambda: sum(answer.done() for answer in answers) == 4)
        refusals = [answer.result() for answer in answers if answer.done()]
        assert [(answer.status_code, answer.headers["Retry-After"]) for answer in refusals] == [(429, "2")] * 4
        (odd / "work" / "end").touch()
        assert sorted(answer.result().status_code for answer in answers) == [200] * 5 + [429] * 4


def test_traces_and_mlflow_s_default_store_end_at_once(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    model_folder(tmp_path, lambda path: mlflow.pyfunc.save_model(path, python_model=Traced(), pip_requirements=[]))
    with running(tmp_path, tmp_path / "log", REQUEST_SECONDS="30") as (url, _):
        assert ask(url, "trace").json() == {"predictions": [1]}
        answer = ask(url, "run")
        assert answer.status_code == 400
        assert models.NO_TRACKING in answer.json()["message"]
        assert list((tmp_path / "work").iterdir()) == []


def test_looks_for_names_once_over_the_body() -> None:
    # A search that restarts at each quote takes half a minute here, and an hour for a megabyte.
    texts = b'["' + b'\\"' * 20_000 + b'", ' + b'":", ' * 20_000 + b'""]'
    unended = b'{"a":1,"b":2,"a":3,"' + b'\\"' * 20_000 + b":" * 60_000 + b"\\"
    for body, names in ((texts, 0), (unended, 2)):
        flat = 14 * len(body) + 380 + 100 * body.count(b",")
        assert weight(body, JSON, 2 * flat) == flat + names * (700 + 16)


def zipped(url: str, body: bytes, encoding: str = "gzip") -> requests.Response:
    headers = {"Content-Type": JSON, "Content-Encoding": encoding}
    return requests.post(f"{url}/invocations", data=body, headers=headers, timeout=60)


def test_takes_gzip_and_bounds_what_it_becomes(ridge: Path, url: str) -> None:
    body = j({"dataframe_records": [ROW]})
    plain = predict(url, body)
    assert zipped(url, gzip.compress(body)).json() == plain.json()
    assert zipped(url, gzip.compress(body[:9]) + gzip.compress(body[9:])).json() == plain.json()
    bomb = zipped(url, gzip.compress(b" " * 500_000_000))
    assert bomb.status_code == 413
    assert refused(bomb)["message"] == "the body may have 1000000 bytes"
    # Each member copies the rest: a megabyte of them took seconds, and twenty a quarter of an hour.
    many = zipped(url, gzip.compress(b"") * 101)
    assert (many.status_code, refused(many)["message"]) == (400, "a gzip body of more than 100 members")
    for broken in (body, gzip.compress(body)[:-9], b""):
        answer = zipped(url, broken)
        assert (answer.status_code, refused(answer)["message"]) == (400, "the body is not gzip"), broken
    other = zipped(url, body, "br")
    assert other.status_code == 415
    assert refused(other)["message"] == "the header Content-Encoding takes identity or gzip"


SECRET = "Kq7-secret-value"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (SECRET.encode() + b"\xff", JSON),
        (SECRET.encode() + b"\xff", "text/csv"),
        (j({SECRET: 1}), JSON),
        (j({"dataframe_records": [{**ROW, "age": SECRET}]}), JSON),
        (j({"dataframe_records": [{**ROW, "age": f"Error: {SECRET}"}]}), JSON),
        (j({"dataframe_records": [{**ROW, "age": f"'; Error: '{SECRET}"}]}), JSON),
        (j({"inputs": {SECRET: [1]}}), JSON),
        (f"age\n{SECRET}\n".encode(), "text/csv"),
        (gzip.compress(SECRET.encode() * 99), JSON),
        (b"{}", f"application/json; {SECRET}=1; plainsecret=1"),
        (b"{}", f"text/{SECRET}"),
    ],
)
def test_errors_never_repeat_the_caller_s_input(url: str, body: bytes, content_type: str) -> None:
    answer = predict(url, body, content_type)
    assert answer.status_code in (400, 415)
    refused(answer)
    assert "secret" not in answer.text
    assert "\\x" not in answer.text


def of_size(first: str, item: str, last: str, size: int = 19_000_000) -> bytes:
    return (first + ",".join([item] * ((size - len(first) - len(last)) // (len(item) + 1))) + last).encode()


def parquet(values: list[str]) -> bytes:
    target = io.BytesIO()
    pd.DataFrame({"a": values}).to_parquet(target, compression="zstd")
    return target.getvalue()


LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "small records": (lambda: of_size('{"dataframe_records":[', '{"a":1}', "]}"), JSON),
    "small rows": (lambda: of_size('{"dataframe_split":{"columns":["a"],"data":[', "[1]", "]}}"), JSON),
    "empty lists": (lambda: of_size('{"inputs":[', "[]", "]}"), JSON),
    "other names in each record": (lambda: j({"dataframe_records": [{f"k{n}": 1} for n in range(20_000)]}), JSON),
    "names": (lambda: j({"dataframe_records": [{f"k{n}": 1 for n in range(1_000_000)}]}), JSON),
    "columns": (lambda: b"," * 9_000_000 + b"\n" + b"," * 9_000_000, "text/csv"),
    "short lines below many columns": (lambda: b"a," * 20_000 + b"a\n" + b"1\n" * 20_000, "text/csv"),
    "Parquet of many small values": (lambda: parquet(["x"] * 6_000_000), "application/vnd.apache.parquet"),
}


@pytest.fixture(scope="module")
def small(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """Server with the default sizes."""
    log = tmp_path_factory.mktemp("small") / "log"
    with running(odd, log, MAX_REQUEST_BYTES=str(20 * 2**20)) as (url, process):
        yield url, psutil.Process(process.pid)


@pytest.mark.parametrize("shape", LARGE)
def test_requests_are_counted_by_what_they_become(small: tuple[str, psutil.Process], shape: str) -> None:
    url, process = small
    body, content_type = LARGE[shape]
    before = process.memory_info().rss
    answer = predict(url, body(), content_type)
    assert answer.status_code == 413, answer.text
    assert refused(answer)["message"] == "the body becomes more than the server's memory holds: send fewer rows at once"
    assert process.memory_info().rss - before < 300e6


def test_counts_a_parquet_value_in_each_row_it_stands_in() -> None:
    body = parquet(["x" * 10_000] * 2000)
    assert len(body) < 10_000
    assert weight(body, "application/vnd.apache.parquet", 10**8) > 4 * 20_000_000
    assert weight(body, "application/vnd.apache.parquet", 10**6) > 10**6
    assert weight(parquet(["x"]), "application/vnd.apache.parquet", 10**6) < 10_000


def test_a_large_request_of_few_values_passes(small: tuple[str, psutil.Process]) -> None:
    url, _ = small
    body = j({"dataframe_records": [{"what": "0", "image": "x" * 19_000_000}]})
    assert predict(url, body).json() == {"predictions": ["0"]}


class Clock:
    """Monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_is_dead_only_after_every_place_was_held_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    server = importlib.import_module("model_server")
    clock = Clock()
    monkeypatch.setattr(server, "time", clock)

    async def statuses() -> list[tuple[int, int]]:
        app = server.Served(_alive, frozenset(), server.Limits(10**6, 60, 2, 10**9))
        found: list[tuple[int, int]] = []

        async def look() -> None:
            found.append((await _status(app, "/ping"), await _status(app, "/health")))

        end = asyncio.Event()
        for deadline in (1060, 1100):
            assert await app._places.enter(1, deadline, asyncio.create_task(end.wait()))
            app._places.run(asyncio.create_task(end.wait()), 1, deadline)
        for now in (1061, 1099, 1100, 1399, 1400):
            clock.now = now
            await look()
        end.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await look()
        return found

    ready, unready, dead = (200, 200), (503, 200), (503, 503)
    assert asyncio.run(statuses()) == [ready, ready, unready, unready, dead, ready]


async def _alive(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def _status(app: Any, path: str) -> int:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": "GET", "headers": []}, None, send)
    return sent[0]["status"]
