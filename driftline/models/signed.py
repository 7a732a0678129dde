"""Sign and verify records of the `models` topic. Two headers hold the signature and the key's id.

A signature covers a fixed prefix, the topic, the key and the value. Readers can therefore detect
that a record was changed, or that it was copied to another topic or key. `catalog` decides whether
a record is still current.
"""

from typing import Final

import msgspec

from driftline.broker.port import Message, Outgoing
from driftline.models.keys import Signature, Signer, Trusted

SIGNATURE: Final = "driftline_signature"  # header that contains the Ed25519 signature in hex
KEY_ID: Final = "driftline_key"  # header that contains the signing key's id
# No digest starts with this prefix, so a package's signature is never valid for a record.
_PREFIX: Final = b"driftline-models-record-1"


def sign(record: Outgoing, signer: Signer) -> Outgoing:
    """Return the record with a new signature, which replaces any existing signature."""
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
    """Return True if a trusted key signed the record, False if the record has no signature.

    Raises UntrustedPackage if the signature is invalid or from an untrusted key.
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
    # Prefix each field with its length, so that different records never give the same bytes.
    parts = (_PREFIX, topic.encode(), key or b"", value or b"")
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
