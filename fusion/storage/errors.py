"""What a store's refusals mean: one line for the user, and whether it is worth while to try again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusion.errors import UserError

PATIENCE, UNREACHABLE = 45.0, 10.0  # seconds from the first try in which another one is begun

MISSING_CODES = ("NoSuchKey", "NotFound", "404")
FULL_CODES = ("InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "507")
TRANSIENT_CODES = (
    "SlowDown",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "InternalError",
)
REGION_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
DENIED_CODES = ("AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")
CHECK_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and what they allow."
TRY_LATER = "Run the same command again later."

ARROW_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during \w+ operation: (.*)", re.DOTALL)
ARROW_CODES = {
    "ACCESS_DENIED": "AccessDenied",
    "NO_SUCH_BUCKET": "NoSuchBucket",
    "SLOW_DOWN": "SlowDown",
    "INTERNAL_FAILURE": "InternalError",
}


class StoreError(UserError):
    """The store fails, not one file in it: there is no use in going on with the next one."""


@dataclass(frozen=True)
class ErrorInfo:
    """What is wrong, what the user can do, and for how many seconds it is worth while to try again."""

    reason: str
    advice: str
    patience: float = 0.0

    def to_error(self, action: str, address: object, tried: float = 0.0) -> StoreError:
        """Return the error for a failed `action` ("read", "write") at `address`, tried for so many seconds."""
        spent = f", tried for {tried:.0f} s" if tried >= 1 else ""
        return StoreError(f"cannot {action} {address}: {self.reason}{spent}. {self.advice}")


def classify_boto_error(error: Exception, bucket: str, store: str) -> ErrorInfo | None:
    """Classify an exception of boto3, of a request to `store` (its address); None: there is no such object."""
    from botocore import exceptions as boto

    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, boto.ClientError):
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return classify_response(str(answer.get("Code", "")), status, str(answer.get("Message", "")), bucket, store)
    if isinstance(error, boto.SSLError):
        return ErrorInfo(text, "Check AWS_ENDPOINT_URL and AWS_CA_BUNDLE.")
    if isinstance(error, boto.ReadTimeoutError):
        return ErrorInfo(f"{store} does not answer", TRY_LATER, PATIENCE)
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError | boto.ProxyConnectionError):
        return classify_unreachable(error.kwargs.get("error") or text, store)
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
        return ErrorInfo(f"{store} broke off the connection", TRY_LATER, PATIENCE)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return ErrorInfo("there are no credentials", CHECK_KEYS)
    return ErrorInfo(text, "Check the address, the credentials and the AWS settings.")


def classify_response(code: str, status: int, message: str, bucket: str, store: str) -> ErrorInfo | None:
    """Classify an answer of the store other than success, by the code of S3, or the HTTP status where there is none.

    None: there is no such object.
    """
    message = " ".join(message.split()).rstrip(".")
    answer = f"{store} says {code or status}" + (f" ({message})" if message else "")
    if code == "NoSuchBucket":
        return ErrorInfo(f"there is no bucket {bucket} at {store}", "Create it, or correct the name.")
    if code in MISSING_CODES:
        return None
    if code in FULL_CODES or status == 507:
        return ErrorInfo(f"no space left: {answer}", "Free some, or choose another place.")
    if code in TRANSIENT_CODES or status in (429, 500, 502, 503, 504):
        return ErrorInfo(answer, f"It is overloaded, down or full. {TRY_LATER}", PATIENCE)
    if code in REGION_CODES:
        return ErrorInfo(f"the bucket is in another region: {answer}", "Set AWS_REGION to the bucket's.")
    if code == "RequestTimeTooSkewed":
        return ErrorInfo(answer, "Set the clock of this machine.")
    if code in DENIED_CODES or status in (401, 403):
        return ErrorInfo(f"access denied: {answer}", CHECK_KEYS)
    return ErrorInfo(answer, "Check the address and the AWS settings.")


def classify_unreachable(cause: object, store: str) -> ErrorInfo:
    """Describe a store at whose address nothing answers; `cause` is the exception, or its text."""
    cause = str(cause).rpartition(": ")[2].strip("'\"()>. ")
    return ErrorInfo(f"{store} cannot be reached ({cause})", "Check AWS_ENDPOINT_URL and the network.", UNREACHABLE)


def classify_arrow_error(error: OSError, bucket: str, store: str) -> ErrorInfo | None:
    """Classify an exception of pyarrow's S3 file system, which has tried again by itself; None: about the file."""
    match = ARROW_ERROR.search(str(error))
    if match is None or isinstance(error, FileNotFoundError):
        return None
    code, status, message = match[1], int(match[2] or 0), match[3].strip()
    if code == "NETWORK_CONNECTION":
        if "Could not" in message or "Failed to connect" in message:
            return classify_unreachable(message, store)
        return ErrorInfo(f"{store} broke off ({message})", TRY_LATER)
    message = "" if message == "No response body." else message
    code = ARROW_CODES.get(code, code)
    return classify_response(code, status, message, bucket, store)
