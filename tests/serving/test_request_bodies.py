"""Every field of a body is used, or refused by its name."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest

from smidgen.serving.bodies import (
    OF_CHATS,
    OF_COMPLETIONS,
    ChatBody,
    CommonBody,
    CompletionBody,
    parse_body,
    read_body,
)
from smidgen.serving.faults import ApiError

TURN = {"role": "user", "content": "Hello"}
# The parameters of openai 3.57: chat.completions.create and completions.create.
CHAT_FIELDS = set(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty "
    "prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format "
    "safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools "
    "top_logprobs top_p user verbosity web_search_options".split()
)
COMPLETION_FIELDS = set(
    "best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop "
    "stream stream_options suffix temperature top_p user".split()
)


def fault(given: Any, body: type[CommonBody] = ChatBody) -> ApiError:
    with pytest.raises(ApiError) as refused:
        parse_body(given, body)
    assert refused.value.status == 400 and refused.value.type == "invalid_request_error"
    return refused.value


def test_every_field_of_the_protocol_is_known():
    assert set(ChatBody.model_fields) | OF_CHATS.keys() >= CHAT_FIELDS
    assert set(CompletionBody.model_fields) | OF_COMPLETIONS.keys() >= COMPLETION_FIELDS
    assert not set(ChatBody.model_fields) & OF_CHATS.keys()


@pytest.mark.parametrize("name", sorted(OF_CHATS))
def test_refused_fields_are_named_and_may_ask_for_nothing(name: str):
    why, neutral = OF_CHATS[name]
    for value in (None, *neutral):
        assert parse_body({"messages": [TURN], name: value}, ChatBody).messages[0].text == "Hello"
    error = fault({"messages": [TURN], name: {"some": "thing"}})
    assert error.message == f"{name} is not supported: {why}; leave it out"
    assert (error.param, error.code) == (name, "unsupported_parameter")


def test_zero_is_neutral_however_it_is_written():
    for zero in (0, 0.0):
        parse_body({"messages": [TURN], "presence_penalty": zero}, ChatBody)
    assert fault({"messages": [TURN], "presence_penalty": False}).param == "presence_penalty"
    assert fault({"messages": [TURN], "store": 0}).param == "store"


FAULTS: list[tuple[Any, str | None, str]] = [
    ({}, "messages", "messages is missing"),
    ({"messages": []}, "messages", "messages is a list: list should have at least 1 item"),
    ({"temprature": 1}, "temprature", "there is no field 'temprature'. Did you mean 'temperature'?"),
    ({"temperature": "hot"}, "temperature", "temperature is 'hot': input should be a valid number"),
    ({"temperature": True}, "temperature", "temperature is True"),
    ({"top_p": 0}, "top_p", "top_p is 0: input should be greater than 0"),
    ({"n": 0}, "n", "n is 0: input should be greater than or equal to 1"),
    ({"max_tokens": 1.5}, "max_tokens", "max_tokens is 1.5: input should be a valid integer"),
    ({"seed": 2**63}, "seed", "seed is 9223372036854775808: input should be less than"),
    ({"stop": [1]}, "stop[0]", "stop[0] is 1: input should be a valid string"),
    ({"stop": ["x"] * 17}, "stop", "stop is a list: list should have at most 16 items"),
    (
        {"messages": [{**TURN, "role": "tool"}]},
        "messages[0].role",
        "messages[0].role is 'tool': input",
    ),
    ({"messages": [{**TURN, "name": "Mia"}]}, "messages[0].name", "messages[0].name is not supported: chat"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing"),
    ({"messages": ["Hello"]}, "messages[0]", "messages[0] is 'Hello': input should be a valid dictionary"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
        "messages[0].content[0].type is 'image_url': input should be 'text'",
    ),
    (
        {"response_format": {"type": "xml"}},
        "response_format",
        "response_format is an object: input should have the type text, json_object or json_schema",
    ),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "response_format.json_schema is missing",
    ),
    (
        {"stream_options": {"include": True}},
        "stream_options.include",
        "there is no field 'stream_options.include'. Leave it out",
    ),
    ([], None, "the body is a list, expected a JSON object"),
]


@pytest.mark.parametrize(("given", "param", "sentence"), FAULTS)
def test_faults_name_the_field_what_it_is_and_what_was_expected(given: Any, param: str, sentence: str):
    error = fault({"messages": [TURN], **given} if given else given)
    assert error.message.startswith(sentence), error.message
    assert error.param == param


def test_plain_completions_have_fields_of_their_own():
    assert parse_body({"prompt": ["a", "b"], "echo": False, "best_of": 1}, CompletionBody).prompts == [
        "a",
        "b",
    ]
    assert (
        "prompt[0] is 12: input should be a valid string" in fault({"prompt": [12]}, CompletionBody).message
    )
    assert (
        "logprobs is 6: input should be less than"
        in fault({"prompt": "a", "logprobs": 6}, CompletionBody).message
    )
    assert fault({"prompt": "a", "echo": True}, CompletionBody).param == "echo"
    assert fault({"prompt": "a", "messages": [TURN]}, CompletionBody).code == "unknown_parameter"


def request_of(body: bytes, kind: str | None = "application/json") -> HttpRequest:
    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [] if kind is None else [(b"content-type", kind.encode())]
    return HttpRequest({"type": "http", "method": "POST", "headers": headers}, receive)


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a": NaN}', b"\xff", b'{"messages": "\\ud800"}', b"[" * 100_000]
)
def test_what_is_no_json_is_refused(body: bytes):
    with pytest.raises(ApiError, match=r"the body (is|has) .*; (expected|send) ") as refused:
        asyncio.run(read_body(request_of(body), ChatBody))
    assert refused.value.status == 400


@pytest.mark.parametrize(("kind", "said"), [(None, "''"), ("text/plain", "'text/plain'")])
def test_a_body_has_to_be_declared_as_json(kind: str | None, said: str):
    with pytest.raises(ApiError, match=f"Content-Type is {said}; send JSON with the header") as refused:
        asyncio.run(read_body(request_of(b"{}", kind), ChatBody))
    assert refused.value.status == 415
    body = b'{"messages": [{"role": "user", "content": "Hello"}]}'
    read = asyncio.run(read_body(request_of(body, "application/json; charset=utf-8"), ChatBody))
    assert read.messages[0].text == "Hello"
