"""Errors of the API, in the shape that OpenAI's clients read.

https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from collections.abc import Mapping

from starlette.responses import JSONResponse

INVALID, NOT_FOUND = "invalid_request_error", "not_found_error"
OVERLOADED, FAILED = "overloaded_error", "server_error"
"""Types of errors."""
CLIENT_LEFT = 499
"""Status of a request whose client left before it was answered, as nginx has it; nobody receives it."""


class ApiError(Exception):
    """An error that a client gets as `{"error": {"message", "type", "param", "code"}}`.

    Attributes:
        status: HTTP status.
        message: one sentence: what was given, what was expected, what to do.
        type: the kind of error.
        param: the field of the request that is wrong, if it is one.
        code: what programs can test for, such as `model_not_found`.
        headers: further headers of the response, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers: Mapping[str, str] = {}

    def to_json(self) -> dict[str, dict[str, str | None]]:
        """Return the body of the response, or of an event of a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.to_json(), self.status, headers=dict(self.headers))
