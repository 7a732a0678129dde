"""Sign and verify the records of the `models` topic. The signature is in two headers.

It covers a fixed prefix, the topic, the key and the bytes of the value. So nobody can change a
record, or copy it to another topic or key, without being noticed. `catalog` decides whether a
record is still current.
"""

from typing import Final

import msgspec

from driftline.broker.port import Message, Outgoing
from driftline.models.keys import Signature, Signer, Trusted

SIGNATURE: Final = "driftline_signature"  # name of the header with the Ed25519 signature in hex
KEY_ID: Final = "driftline_key"
# No digest starts like this, so the signature of a package is never valid for a record.
_PREFIX: Final = b"driftline-models-record-1"


def sign(record: Outgoing, signer: Signer) -> Outgoing:
    """Return the record with its signature, in place of any that it had."""
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

    Raises UntrustedPackage if its signature is invalid or by a key that is not trusted.
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
    # Each part follows its length, so that different records never give the same bytes.
    parts = (_PREFIX, topic.encode(), key or b"", value or b"")
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
