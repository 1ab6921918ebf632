from __future__ import annotations

import inspect
import json
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import errors
from services.openai.errors import ERROR_TABLE, error_from, error_response, kind_of, normalise

KEYS = {"message", "type", "param", "code"}
REFUSALS = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.ServiceError)
    and cls not in {errors.ServiceError, errors.ConfigurationError}  # at start, never on the wire
]


def fault(body: bytes) -> dict[str, Any]:
    parsed = json.loads(body)
    assert set(parsed) == {"error"}
    error: dict[str, Any] = parsed["error"]
    assert set(error) == KEYS
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


@pytest.mark.parametrize("cls", REFUSALS)
def test_every_refusal_has_its_row_and_all_four_keys(cls: type[errors.ServiceError]) -> None:
    assert cls in ERROR_TABLE
    status, headers, body = error_response(cls("what is wrong"))
    assert status == ERROR_TABLE[cls].status
    assert fault(body)["message"] == "what is wrong"
    assert dict(headers)[b"content-length"] == str(len(body)).encode()


def test_no_two_rows_share_a_status() -> None:
    assert len({kind.status for kind in ERROR_TABLE.values()}) == len(ERROR_TABLE)


def test_a_subclass_is_found_through_its_base_and_a_bare_one_is_500() -> None:
    class NoSuchVoiceError(errors.NotFoundError):
        pass

    assert kind_of(NoSuchVoiceError("x")).status == 404
    assert kind_of(errors.ServiceError("x")).status == 500


@pytest.mark.parametrize(
    ("cls", "status", "type_", "code"),
    [
        (errors.ConflictError, 409, "invalid_request_error", "conflict"),
        (errors.StorageError, 507, "server_error", "storage_failed"),
    ],
)
def test_a_taken_name_is_409_and_a_full_disk_507(
    cls: type[errors.ServiceError], status: int, type_: str, code: str
) -> None:
    got, _, body = error_response(cls("what is wrong"))
    error = fault(body)
    assert (got, error["type"], error["code"]) == (status, type_, code)


def test_a_code_of_its_own_wins_over_the_tables() -> None:
    error = errors.NotFoundError("no", param="voice", code="voice_not_found")
    assert fault(error_response(error)[2]) == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "voice",
        "code": "voice_not_found",
    }


@pytest.mark.parametrize(
    ("seconds", "whole", "ms"), [(0.0501, b"1", b"51"), (2, b"2", b"2000"), (2.2, b"3", b"2200")]
)
def test_retry_after_is_said_in_both_of_the_ways_that_clients_obey(
    seconds: float, whole: bytes, ms: bytes
) -> None:
    headers = dict(error_response(errors.OverloadedError("full", retry_after_s=seconds))[1])
    assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (whole, ms)


def test_no_retry_after_where_it_is_not_known() -> None:
    assert b"retry-after" not in dict(error_response(errors.NotFoundError("no"))[1])


@pytest.mark.parametrize(
    ("status", "body", "message", "param", "code"),
    [
        # vLLM
        (
            400,
            b'{"error":{"message":"too long","type":"BadRequestError","param":"n","code":400}}',
            "too long",
            "n",
            None,
        ),
        (
            404,
            (
                b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError",'
                b'"param":"model","code":404}}'
            ),
            "The model `x` does not exist.",
            "model",
            "model_not_found",
        ),
        (400, b'{"object":"error","message":"old","code":400}', "old", None, None),
        # another gateway or OpenAI itself
        (
            400,
            b'{"error":{"message":"m","type":"t","param":null,"code":"context_length_exceeded"}}',
            "m",
            None,
            "context_length_exceeded",
        ),
        # FastAPI
        (404, b'{"detail":"Not Found"}', "Not Found", None, "not_found"),
        (
            422,
            b'{"detail":[{"type":"missing","loc":["body","x"],"msg":"Field required"}]}',
            "Field required",
            "x",
            None,
        ),
        # BentoML
        (429, b'{"error":"Too many requests"}', "Too many requests", None, "rate_limit_exceeded"),
        # Starlette, nginx
        (405, b"Method Not Allowed", "Method Not Allowed", None, "method_not_allowed"),
        (404, b"", "Not Found", None, "not_found"),
        (418, b"null", "I'm a Teapot", None, None),
        (499, b"", "HTTP status 499", None, None),
        (400, b"\xff\xfe", "\ufffd\ufffd", None, None),
    ],
)
def test_a_foreign_error_becomes_openais(
    status: int, body: bytes, message: str, param: str | None, code: str | None
) -> None:
    error = fault(normalise(status, body))
    assert (error["message"], error["param"], error["code"]) == (message, param, code)


@pytest.mark.parametrize(
    "body", [b"Traceback: secret", b'{"error":"secret"}', b'{"detail":"secret"}', b'["secret"]']
)
def test_what_a_broken_server_says_is_not_passed_on(body: bytes) -> None:
    assert "secret" not in fault(normalise(500, body))["message"]


def test_a_proper_error_object_keeps_its_words_at_500() -> None:
    body = b'{"error":{"message":"engine died","code":500}}'
    assert fault(normalise(500, body))["message"] == "engine died"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "param", "type", "msg", "loc"]),
            inner,
        )
    ),
)


@given(
    status=st.sampled_from([s.value for s in HTTPStatus if s >= 400]),
    body=st.binary() | JSON.map(json.dumps).map(str.encode),
)
def test_whatever_came_all_four_keys_are_there(status: int, body: bytes) -> None:
    fault(normalise(status, body))


@pytest.mark.parametrize("cls", REFUSALS)
def test_an_error_of_another_server_is_the_error_that_it_was_there(
    cls: type[errors.ServiceError],
) -> None:
    error = cls("what is wrong")
    error.param, error.code = "voice", "why"
    status, _, body = error_response(error)
    again = error_from(status, body, 1.5)
    assert type(again) is cls
    assert (again.message, again.param, again.code) == ("what is wrong", "voice", "why")
    assert again.retry_after_s == 1.5


@given(status=st.integers(400, 599), body=st.binary(max_size=60))
def test_whatever_another_server_says_becomes_an_error(status: int, body: bytes) -> None:
    error = error_from(status, body)
    assert error.message
    assert (kind_of(error).status < 500) == (status < 500)
