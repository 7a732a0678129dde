"""Windows are not tested without a reference, and not judged while the store is unreachable."""

import pytest

from driftline.config.measure import Measure
from driftline.errors import StoreUnavailable
from driftline.models.package_reference import Reference
from monitor.reference.references import References
from tests.monitor.streams import Packages


class _AwayAtFirst(Packages):
    is_away = True

    def reference(self, digest: str) -> Reference:
        if self.is_away:
            raise StoreUnavailable("the model store cannot be read")
        return super().reference(digest)


def test_an_unreachable_store_is_not_treated_as_a_missing_reference() -> None:
    packages = _AwayAtFirst({})
    references = References(packages, Measure("accuracy"))
    with pytest.raises(StoreUnavailable):
        references.of("sha256:a")
    packages.is_away = False
    assert references.of("sha256:a") is None
