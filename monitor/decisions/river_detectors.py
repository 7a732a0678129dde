"""Create River's in-memory drift detectors with settings that cause few false alarms.

With River's default settings, the detectors raise a false alarm every few hundred or few thousand
values. With this module's settings, they raise few false alarms on the streams that
`python -m benchmarks.evidence detectors --tune` uses.
"""

from typing import Any, Protocol, cast


class RiverDetector(Protocol):
    """The part of River's detector interface that the monitor uses."""

    drift_detected: bool

    def update(self, x: Any) -> Any:
        """Add a value."""


def adwin() -> RiverDetector:
    """Return an ADWIN detector (A. Bifet and R. Gavaldà, "Learning from time-changing data with
    adaptive windowing", 2007)."""
    from river.drift import ADWIN

    return cast(RiverDetector, ADWIN(delta=0.002))


def page_hinkley() -> RiverDetector:
    """Return a Page-Hinkley detector (E. S. Page, "Continuous inspection schemes", 1954)."""
    from river.drift import PageHinkley

    return cast(
        RiverDetector,
        PageHinkley(min_instances=100, delta=0.02, threshold=25.0, alpha=1.0, mode="up"),
    )


def ddm() -> RiverDetector:
    """Return a DDM detector (J. Gama et al., "Learning with drift detection", 2004)."""
    from river.drift.binary import DDM

    return cast(RiverDetector, DDM(warm_start=200, warning_threshold=2.5, drift_threshold=3.5))


def hddm_a() -> RiverDetector:
    """Return an HDDM-A detector (I. Frías-Blanco et al., "Online and non-parametric drift detection
    methods", 2014)."""
    from river.drift.binary import HDDMA

    return cast(RiverDetector, HDDMA(drift_confidence=0.001))


def hddm_w() -> RiverDetector:
    """Return an HDDM-W detector, which compares weighted means (same paper as HDDM-A)."""
    from river.drift.binary import HDDMW

    return cast(RiverDetector, HDDMW(drift_confidence=0.0001, lambda_val=0.01))
