"""Clarifai's status codes, and what they are to a run.

https://docs.clarifai.com/resources/api-overview/status-codes, and the enum StatusCode of the SDK (status_code.proto), which has
some that the page lacks and the other way round. A code that is not here belongs to training, workflows, annotations, billing
forms and the like: no prediction should meet it, and what it would mean for the image is not known.
"""

from __future__ import annotations

from apibench.query.contract import ErrorKind

# 10001 and 10002 are warnings of the documentation's list (the API's version, or the client's, is deprecated).
SUCCESSES = frozenset({10000, 10001, 10002})
# What the outputs have to say is in their own status: besides the successes, MIXED_STATUS and FAILURE.
OPEN = SUCCESSES | {10010, 10020}

# The status codes (clarifai/api/status/status_code.proto) that a prediction may meet, and what they are to a run.
CODES: dict[ErrorKind, dict[int, str]] = {
    ErrorKind.THROTTLED: {11005: "CONN_THROTTLED"},
    ErrorKind.TRANSIENT: {
        10020: "FAILURE",  # without outputs: seen with "Gateway timeout"
        10030: "TRY_AGAIN",
        10070: "ACCEPTED",
        21313: "MODEL_PREDICTION_FAILED",
        21350: "MODEL_DEPLOYMENT_FAILED",
        21351: "MODEL_DEPLOYING",
        21352: "MODEL_QUEUED_FOR_DEPLOYMENT",
        21353: "MODEL_NOT_DEPLOYED",  # taken down for want of use: a request wakes it
        21354: "MODEL_BUSY_PLEASE_RETRY",
        21355: "MODEL_LOADING",
        25600: "RUNNER_DOES_NOT_EXIST",
        25604: "RUNNER_NEEDS_RETRY",
        25607: "RUNNER_ITEM_CANCELLED",
        25608: "RUNNER_PROCESSING_FAILED",
        30001: "INPUT_DOWNLOAD_PENDING",
        30003: "INPUT_DOWNLOAD_IN_PROGRESS",
        30004: "INPUT_STATUS_UPDATE_FAILED",
        30210: "INPUT_STORAGE_HOST_FAILED",
        39996: "INPUT_CONNECTION_FAILED",
        39997: "REQUEST_DISABLED_FOR_MAINTENANCE",
        39998: "INPUT_WRITES_DISABLED_FOR_MAINTENANCE",
        40030: "RPC_REQUEST_QUEUE_FULL",
        40031: "RPC_SERVER_UNAVAILABLE",
        40032: "RPC_REQUEST_TIMEOUT",
        40034: "EXTERNAL_CONNECTION_ERROR",
        40035: "RPC_CANCELED",
        40037: "REQUEST_CANCELED_BY_USER",
        47201: "DATATIER_CONN_ERROR",
        51000: "WORKER_MISSING",
        51002: "WORKER_INACTIVE",
        90500: "SERVER_ERROR",
        98004: "INTERNAL_SERVER_ISSUE",
        98008: "INTERNAL_CONTEXT_CANCELED",
        98009: "INTERNAL_UNEXPECTED_TIMEOUT",
        99001: "CONN_UNCATEGORIZED",
        99002: "MODEL_UNCATEGORIZED",
        99003: "INPUT_UNCATEGORIZED",
        99009: "INTERNAL_UNCATEGORIZED",
    },
    # Only what can be nothing but the image, whose bytes are sent: no URL is fetched, nothing is looked up.
    ErrorKind.REJECTED: {
        30002: "INPUT_DOWNLOAD_FAILED",  # "download failed or we could not process it; check URL or bytes"
        30101: "INPUT_UNSUPPORTED_FORMAT",
        30104: "INPUT_INVALID_ARGUMENT",
        30105: "INPUT_OVER_LIMIT",
        30300: "ALL_INPUT_INVALID_BYTES",
        40033: "RPC_MAX_MESSAGE_SIZE_EXCEEDED",
        46003: "FILETYPE_UNSUPPORTED",
    },
    # With a model that is not there, or not for this key (which of both, the vendor does not tell), no image has a chance: the
    # run stops at once, as with a wrong key, and no image is marked as refused.
    ErrorKind.CREDENTIALS: {
        11000: "CONN_ACCOUNT_ISSUES",
        11001: "CONN_TOKEN_INVALID",
        11002: "CONN_CREDENTIALS_INVALID",
        11007: "CONN_INSUFFICIENT_SCOPES",
        11008: "CONN_KEY_INVALID",
        11009: "CONN_KEY_NOT_FOUND",
        11101: "CONN_DOES_NOT_EXIST",
        11102: "CONN_INVALID_REQUEST",  # "something wrong with a header", and there is one only: the key's
        11104: "CONN_NO_GDPR_CONSENT",
        11200: "CONN_AUTH_METHOD_DISABLED",
        21200: "MODEL_DOES_NOT_EXIST",
        21201: "MODEL_PERMISSION_DENIED",
        25900: "DEPLOYMENT_DOES_NOT_EXIST",
        25903: "DEPLOYMENT_DISABLED",
        30103: "INPUT_PERMISSION_DENIED",
        46002: "SIGNUP_FLAGGED",
        46006: "USER_FLAGGED",
        50001: "USER_CONSENT_FACE",
        62002: "FEATUREFLAG_BLOCKED",
        65000: "AUTH_MISSING_IDP_ASSOC",
    },
    ErrorKind.QUOTA: {
        11003: "CONN_EXCEED_HOURLY_LIMIT",
        11004: "CONN_EXCEED_MONTHLY_LIMIT",
        11006: "CONN_EXCEEDS_LIMITS",
        69000: "BILLING_INVALID_INFO",
        69001: "BILLING_MISSING_TOKENS",
        99005: "BILLING_UNCATEGORIZED",
    },
    # A request that the vendor does not understand: a fault of ours, or of the settings, and of no image.
    ErrorKind.PROTOCOL: {
        10040: "NOT_IMPLEMENTED",
        10050: "MOVED",  # never followed: it would take image and key elsewhere
        11100: "CONN_BAD_REQUEST_FORMAT",
        11103: "CONN_METHOD_NOT_ALLOWED",
        11105: "CONN_INVALID_RANGE",
        21202: "MODEL_INVALID_ARGUMENT",
        21203: "MODEL_INVALID_REQUEST",
        21400: "MODEL_REFERENCE_INVALID_ARGUMENT",
        30100: "INPUT_DUPLICATE",
        30102: "INPUT_DOES_NOT_EXIST",
        30106: "INPUT_INVALID_URL",
        39999: "INPUT_INVALID_REQUEST",
        40001: "PREDICT_INVALID_REQUEST",
        40036: "RPC_UNKNOWN_METHOD",
        90400: "BAD_REQUEST",
    },
}
# Whole families of things that break behind the API: its databases, queues, caches, and its own (INTERNAL_).
BROKEN = (range(40010, 40022), range(41000, 41103), range(43040, 43041), range(45001, 45007), range(98000, 99000))
# Reported by the vendor, and yet the work may have been done, and billed.
MAYBE_DONE = frozenset({10020, 10070, 30001, 30003, 40032, 40035, 40037, 98008, 98009})

# About the chosen model: a message names it.
OF_THE_MODEL = frozenset({11101, 21200, 21201, 21202, 21203, 25900, 25903})
ALL_INPUT_INVALID_BYTES = 30300

_KNOWN = {code: (kind, name) for kind, codes in CODES.items() for code, name in codes.items()}


def kind_of(code: int) -> ErrorKind | None:
    """What a code is to a run; None for one that says nothing about predictions."""
    if code in _KNOWN:
        return _KNOWN[code][0]
    return ErrorKind.TRANSIENT if any(code in family for family in BROKEN) else None


def name_of(code: int) -> str:
    """The vendor's name of a code, or its number."""
    return _KNOWN[code][1] if code in _KNOWN else str(code)
