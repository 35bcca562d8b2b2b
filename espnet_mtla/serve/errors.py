"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: one line for the user.
        param: the field of the request that is wrong.
        code: a name by which programs know the error.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code = param, code
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, object]:
        """Return the body of the answer.

        >>> ApiError(400, "too long", param="prompt").as_dict()["error"]["type"]
        'invalid_request_error'
        """
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
