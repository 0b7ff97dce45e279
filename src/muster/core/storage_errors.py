"""What the embedded blob endpoint refuses: Azure Storage's names, which its clients know.

Azure Storage has no numbers; ours are the HTTP status and a counter from 900 on, so that the rows look like the hub's.
Source: Azure Storage, Common REST API Error Codes and Blob Service Error Codes.
"""

from __future__ import annotations

from muster.core.errors import ErrorRow


def _row(code: int, name: str, cause: str, remedy: str) -> ErrorRow:
    return ErrorRow(code, name, "amqp:not-allowed", 5, cause, remedy)


INVALID_HEADER = _row(
    400901, "InvalidHeaderValue", "The value of a header is not what it must be.", "Correct the header named."
)
MISSING_HEADER = _row(400902, "MissingRequiredHeader", "A header is missing.", "Send the header named.")
UNSUPPORTED_HEADER = _row(
    400903, "UnsupportedHeader", "A header asks for what the embedded endpoint does not do.", "Leave it out."
)
INVALID_QUERY = _row(
    400904, "InvalidQueryParameterValue", "A parameter of the query is wrong.", "Correct the parameter named."
)
INVALID_XML = _row(400905, "InvalidXmlDocument", "The block list is not the XML it must be.", "Let an SDK write it.")
INVALID_BLOCK_LIST = _row(
    400906, "InvalidBlockList", "The block list names a block that is not there.", "Put the block first."
)
INVALID_BLOCK_ID = _row(
    400907,
    "InvalidBlobOrBlock",
    "A block id differs in length from the others of the file.",
    "Use ids of one length for all blocks of a file.",
)
MD5_MISMATCH = _row(400908, "Md5Mismatch", "The body is not what Content-MD5 says.", "Send it again.")
NO_AUTHENTICATION = _row(
    401901,
    "NoAuthenticationInformation",
    "The request carries no shared access signature.",
    "Send the sasToken that POST /devices/<id>/files answered behind the file's address.",
)
AUTHENTICATION_FAILED = _row(
    403901,
    "AuthenticationFailed",
    "The shared access signature is malformed, expired, or not for this file.",
    "Begin a new upload: POST /devices/<id>/files.",
)
PERMISSION_MISMATCH = _row(
    403902,
    "AuthorizationPermissionMismatch",
    "The shared access signature does not permit this operation.",
    "A device may read and write its file; to delete one use a policy with ServiceConnect.",
)
BLOB_NOT_FOUND = _row(404901, "BlobNotFound", "There is no such file.", "Check the name.")
BLOB_EXISTS = _row(
    409901, "BlobAlreadyExists", "The file is there already.", "Choose another name, or leave If-None-Match out."
)
TOO_MANY_BLOCKS = _row(409902, "BlockCountExceedsLimit", "The file has as many blocks as it may.", "Use larger blocks.")
STORAGE_FULL = _row(
    409903,
    "InsufficientStorage",
    "The hub has no room for the file.",
    "Delete files, give the hub's disk more room, or raise --upload-mib.",
)
LENGTH_REQUIRED = _row(
    411901, "MissingContentLengthHeader", "The body comes without Content-Length.", "Send Content-Length."
)
CONDITION_NOT_MET = _row(
    412901, "ConditionNotMet", "The condition in the request's headers does not hold.", "Read the file's ETag again."
)
BODY_TOO_LARGE = _row(413901, "RequestBodyTooLarge", "The body is too large.", "Put the file in blocks.")
INVALID_RANGE = _row(416901, "InvalidRange", "The range lies beyond the file's end.", "Ask for bytes that are there.")
SERVER_BUSY = _row(503901, "ServerBusy", "Too many files are being received.", "Retry in a moment.")

ALL: tuple[ErrorRow, ...] = tuple(value for value in list(globals().values()) if isinstance(value, ErrorRow))
