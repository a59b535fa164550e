"""Bodies of requests in OpenAI's protocol, and how one is read: every field is used or refused by name.

https://platform.openai.com/docs/api-reference/chat/create and …/completions/create. `top_k`, `min_p`,
`repetition_penalty` and `chat_template_kwargs` are extensions that vLLM and llama-server have too.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from smidgen.errors import did_you_mean, first_few
from smidgen.serving.body_limits import check_content_type
from smidgen.serving.faults import ApiError
from smidgen.serving.request_facts import facts_of
from smidgen.serving.strict_json import read_json_body

MOST_CHOICES, MOST_PROMPTS = 128, 128
"""Choices of a prompt, as OpenAI has it, and prompts of a request."""
MOST_STOPS = 16
LARGEST_SEED = 2**63
SHOWN = 60
"""Characters of a wrong value in an error."""

Refused = dict[str, tuple[str, tuple[Any, ...]]]
"""Why a field is refused, by name, and the values that ask for nothing, besides null."""

TOOLS: Refused = {
    "tools": ("this server calls no tools", ([],)),
    "tool_choice": ("this server calls no tools", ("none", "auto")),
    "parallel_tool_calls": ("this server calls no tools", (True, False)),
    "functions": ("this server calls no functions", ([],)),
    "function_call": ("this server calls no functions", ("none", "auto")),
}
OF_EVERY_REQUEST: Refused = {
    "logit_bias": ("the engines take no bias of single tokens", ({},)),
    "presence_penalty": ("use frequency_penalty or repetition_penalty", (0,)),
}
OF_CHATS: Refused = {
    **TOOLS,
    **OF_EVERY_REQUEST,
    "audio": ("the model writes text only", ()),
    "modalities": ("the model writes text only", (["text"],)),
    "prediction": ("answers are not predicted", ()),
    "reasoning_effort": ("the server's option --thinking decides", ("none",)),
    "verbosity": ("the model has no such setting", ("medium",)),
    "web_search_options": ("this server searches nothing", ()),
    "moderation": ("this server moderates nothing", ()),
    "store": ("nothing is stored", (False,)),
    "metadata": ("nothing is stored", ({},)),
    "service_tier": ("there is one tier", ("auto", "default")),
    "prompt_cache_key": ("prefixes of prompts are kept without it", ()),
    "prompt_cache_options": ("prefixes of prompts are kept without them", ({},)),
    "prompt_cache_retention": ("prefixes of prompts are kept as long as there is room", ()),
}
OF_COMPLETIONS: Refused = {
    **OF_EVERY_REQUEST,
    "best_of": ("choices are not ranked; use n", (1,)),
    "echo": ("the prompt is not repeated", (False,)),
    "suffix": ("the model writes no middles of texts", ("",)),
}
OF_MESSAGES: Refused = {
    "name": ("chat templates have no names of speakers", ()),
    "tool_calls": ("this server calls no tools", ([],)),
    "function_call": ("this server calls no functions", ()),
    "audio": ("the model reads text only", ()),
    "refusal": ("put the text into content", ("",)),
    "annotations": ("the model reads text only", ([],)),
}


class Part(BaseModel):
    """Base of every object in a body: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class TextPart(Part):
    """A part of a message."""

    type: Literal["text"]
    text: str


def _kind(value: Any) -> str:
    return "#list" if isinstance(value, list) else "#text"


class Turn(Part):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; `developer` is another name of `system`. An `assistant` message at the end is continued."""
    content: Annotated[
        Annotated[str, Tag("#text")] | Annotated[list[TextPart], Tag("#list")], Discriminator(_kind)
    ]
    """The text, or a list of parts of the type `text`, which are joined."""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)


class TextFormat(Part):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Part):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Part):
    """A JSON schema."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Answers follow the schema in any case."""
    schema_: dict[str, Any] = Field(alias="schema")


class SchemaFormat(Part):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


def _format(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"#{kind}" if isinstance(kind, str) else None


Format = Annotated[
    Annotated[TextFormat, Tag("#text")]
    | Annotated[ObjectFormat, Tag("#json_object")]
    | Annotated[SchemaFormat, Tag("#json_schema")],
    Discriminator(
        _format,
        custom_error_type="format",
        custom_error_message="Input should have the type text, json_object or json_schema",
    ),
]


class StreamOptions(Part):
    """Options of a stream."""

    include_usage: bool = False
    """Whether a last chunk has the numbers of tokens."""
    include_obfuscation: Literal[False] | None = None
    """Chunks are not padded."""


class TemplateOptions(Part):
    """Variables of the chat template."""

    enable_thinking: bool | None = None
    """Whether a thinking block is opened; it has to be as the server was started."""


class CommonBody(Part):
    """What requests for chats and for plain completions share."""

    refused: ClassVar[Refused] = OF_EVERY_REQUEST

    model: str | None = None
    """A name of `/v1/models`: the base model, or an adapter. The base model if left out."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of the answer in tokens; the server's `--max-tokens` if left out."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """0, the default, is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keep the most probable tokens up to this total probability."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Keep this many of the most probable tokens; 0 keeps all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop tokens below this fraction of the highest probability."""
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    """Penalty of tokens that occurred before; 1 is none."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Subtracted from a token's logit per occurrence; in the engine `mlx`."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Number of answers to a prompt."""
    seed: Annotated[int, Field(ge=-LARGEST_SEED, lt=LARGEST_SEED)] | None = None
    """The same seed gives the same answer to the same request; a random one if left out."""
    stop: (
        Annotated[
            Annotated[str, Tag("#text")] | Annotated[list[str], Field(max_length=MOST_STOPS), Tag("#list")],
            Discriminator(_kind),
        ]
        | None
    ) = None
    """A text, or several, before which the answer ends."""
    stream: bool | None = None
    """Whether the answer comes in chunks, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    user: str | None = None
    """Who asks, if the server takes no keys: those who wait are served in turn."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatBody(CommonBody):
    """Body of `/v1/chat/completions`."""

    refused: ClassVar[Refused] = OF_CHATS

    messages: Annotated[list[Turn], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Whether the answer has the log-probability of every token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """With `logprobs`, number of the most probable tokens that are reported too, for every token."""
    response_format: Format | None = None
    """`text`, `json_object`, or `json_schema` with a schema that the answer follows."""
    chat_template_kwargs: TemplateOptions | None = None
    safety_identifier: str | None = None
    """As `user`."""


class CompletionBody(CommonBody):
    """Body of `/v1/completions`."""

    refused: ClassVar[Refused] = OF_COMPLETIONS

    prompt: Annotated[
        Annotated[str, Tag("#text")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS), Tag("#list")],
        Discriminator(_kind),
    ]
    """A text to continue, or several; no chat template is applied."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """For the log-probability of every token, and of this many of the most probable ones there."""

    @property
    def prompts(self) -> list[str]:
        """The texts to continue."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


Read = TypeVar("Read", bound=BaseModel)


async def read_body(request: Request, body: type[Read]) -> Read:
    """Read the JSON body of a request.

    Raises:
        ApiError: 415, it is not declared as JSON; 400, it is not JSON, or a field is unknown or wrong.
    """
    check_content_type(request.headers)
    value = await read_json_body(request)
    facts_of(request.scope).texts = value
    return parse_body(value, body)


def parse_body(value: Any, body: type[Read]) -> Read:
    """Validate the parsed JSON of a body.

    Raises:
        ApiError: 400; a field is unknown, refused or wrong.
    """
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {_shown(value)}, expected a JSON object")
    value = _without_neutral(value, getattr(body, "refused", {}))
    if body is ChatBody and isinstance(value.get("messages"), list):
        value["messages"] = [
            _without_neutral(turn, OF_MESSAGES, f"messages[{i}].") if isinstance(turn, dict) else turn
            for i, turn in enumerate(value["messages"])
        ]
    try:
        return body.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = faults[0]
        raise ApiError(
            400,
            first_few(list(dict.fromkeys(_sentence(fault, body) for fault in faults))),
            param=_place(first["loc"]) or None,
            code="unknown_parameter" if first["type"] == "extra_forbidden" else None,
        ) from None


def _without_neutral(value: dict[str, Any], refused: Refused, where: str = "") -> dict[str, Any]:
    """Return an object without the refused fields that ask for nothing."""
    for name, (why, neutral) in refused.items():
        given = value.get(name)
        if given is not None and not any(given == one and type(given) is type(one) for one in neutral):
            if name == "presence_penalty" and given == 0.0 and not isinstance(given, bool):
                continue
            raise ApiError(
                400,
                f"{where}{name} is not supported: {why}; leave it out",
                param=f"{where}{name}",
                code="unsupported_parameter",
            )
    return {name: item for name, item in value.items() if name not in refused}


def _sentence(fault: ErrorDetails, body: type[BaseModel]) -> str:
    place = _place(fault["loc"])
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "extra_forbidden":
        known = body.model_fields if len(fault["loc"]) == 1 else ()
        hint = did_you_mean(str(fault["loc"][-1]), known)
        return f"there is no field '{place[:SHOWN]}'.{hint or ' Leave it out'}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place} is {_shown(fault['input'])}: {message[0].lower()}{message[1:]}"


def _place(location: tuple[int | str, ...]) -> str:
    """Return the path of a field as JavaScript writes it, without the tags of alternatives."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith("#"):
            place += f".{part}" if place else part
    return place


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
