"""Signatures of the records of the `models` topic, in two headers beside the value.

What is signed: a fixed prefix, the topic, the key and the value's bytes, as they are in the log. So
a record cannot be changed, nor used in another topic or under another key. Whether it is still
current is for `catalog` to decide.
"""

from typing import Final

import msgspec

from driftline.broker.port import Message, Outgoing
from driftline.models.keys import Signature, Signer, Trusted

SIGNATURE: Final = "driftline_signature"  # hex, Ed25519
KEY_ID: Final = "driftline_key"
# No digest begins like this, so a package's signature is never one of a record.
_PREFIX: Final = b"driftline-models-record-1"


def sign(record: Outgoing, signer: Signer) -> Outgoing:
    """Return the record with its signature."""
    signature = signer.sign_bytes(_signed(record.topic, record.key, record.value))
    headers = tuple(header for header in record.headers if header[0] not in (SIGNATURE, KEY_ID))
    return msgspec.structs.replace(
        record,
        headers=(
            *headers,
            (SIGNATURE, signature.value.encode()),
            (KEY_ID, signature.key_id.encode()),
        ),
    )


def is_signed(message: Message, trusted: Trusted) -> bool:
    """Return whether the record carries a signature; False means that it carries none.

    Raises UntrustedPackage if it carries one that does not hold.
    """
    headers = {name: value for name, value in message.headers if name in (SIGNATURE, KEY_ID)}
    if not headers:
        return False
    signature = Signature(
        (headers.get(SIGNATURE) or b"").decode("ascii", "replace"),
        (headers.get(KEY_ID) or b"").decode("ascii", "replace"),
    )
    data = _signed(message.topic, message.key, message.value)
    trusted.verify_bytes("the record", data, signature)
    return True


def _signed(topic: str, key: bytes | None, value: bytes | None) -> bytes:
    # Lengths instead of separators: no two records give the same bytes.
    parts = (_PREFIX, topic.encode(), key or b"", value or b"")
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
