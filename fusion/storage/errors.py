"""What a store's refusals mean: one line for the user, and whether it is worth while to try again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusion.errors import UserError

PATIENCE, UNREACHABLE = 45.0, 10.0  # seconds from the first try in which another one is begun

MISSING = ("NoSuchKey", "NotFound", "404")
FULL = ("InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "507")
PASSING = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError")
REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
DENIED = ("AccessDenied", "ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")
UNSIGNED = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and what they allow."
LATER = "Run the same command again later."

ARROW = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during \w+ operation: (.*)", re.DOTALL)
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

    def error(self, doing: str, where: object, tried: float = 0.0) -> StoreError:
        spent = f", tried for {tried:.0f} s" if tried >= 1 else ""
        return StoreError(f"cannot {doing} {where}: {self.reason}{spent}. {self.advice}")


def classify_boto_error(error: Exception, bucket: str, store: str) -> ErrorInfo | None:
    """An exception of boto3, of a request to `store` (its address); None when it says that there is no such object."""
    from botocore import exceptions as boto

    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, boto.ClientError):
        told = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return classify_response(str(told.get("Code", "")), status, str(told.get("Message", "")), bucket, store)
    if isinstance(error, boto.SSLError):
        return ErrorInfo(text, "Check AWS_ENDPOINT_URL and AWS_CA_BUNDLE.")
    if isinstance(error, boto.ReadTimeoutError):
        return ErrorInfo(f"{store} does not answer", LATER, PATIENCE)
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError | boto.ProxyConnectionError):
        return unreachable_error(error.kwargs.get("error") or text, store)
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
        return ErrorInfo(f"{store} broke off the connection", LATER, PATIENCE)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return ErrorInfo("there are no credentials", UNSIGNED)
    return ErrorInfo(text, "Check the address, the credentials and the AWS settings.")


def classify_response(code: str, status: int, message: str, bucket: str, store: str) -> ErrorInfo | None:
    """An answer of the store other than success: the code of S3, or the HTTP status where there is none."""
    message = " ".join(message.split()).rstrip(".")
    said = f"{store} says {code or status}" + (f" ({message})" if message else "")
    if code == "NoSuchBucket":
        return ErrorInfo(f"there is no bucket {bucket} at {store}", "Create it, or correct the name.")
    if code in MISSING:
        return None
    if code in FULL or status == 507:
        return ErrorInfo(f"no space left: {said}", "Free some, or choose another place.")
    if code in PASSING or status in (429, 500, 502, 503, 504):
        return ErrorInfo(said, f"It is overloaded, down or full. {LATER}", PATIENCE)
    if code in REGION:
        return ErrorInfo(f"the bucket is in another region: {said}", "Set AWS_REGION to the bucket's.")
    if code == "RequestTimeTooSkewed":
        return ErrorInfo(said, "Set the clock of this machine.")
    if code in DENIED or status in (401, 403):
        return ErrorInfo(f"access denied: {said}", UNSIGNED)
    return ErrorInfo(said, "Check the address and the AWS settings.")


def unreachable_error(cause: object, store: str) -> ErrorInfo:
    cause = str(cause).rpartition(": ")[2].strip("'\"()>. ")
    return ErrorInfo(f"{store} cannot be reached ({cause})", "Check AWS_ENDPOINT_URL and the network.", UNREACHABLE)


def classify_arrow_error(error: OSError, bucket: str, store: str) -> ErrorInfo | None:
    """An exception of pyarrow's S3 file system, which has tried again by itself; None when it is about the file."""
    found = ARROW.search(str(error))
    if found is None or isinstance(error, FileNotFoundError):
        return None
    code, status, message = found[1], int(found[2] or 0), found[3].strip()
    if code == "NETWORK_CONNECTION":
        never_there = "Could not" in message or "Failed to connect" in message
        return unreachable_error(message, store) if never_there else ErrorInfo(f"{store} broke off ({message})", LATER)
    message = "" if message == "No response body." else message
    code = ARROW_CODES.get(code, code)
    return classify_response(code, status, message, bucket, store)
