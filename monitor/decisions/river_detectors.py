"""River's drift detectors, each with the setting that keeps it quiet enough.

The default settings raise an alarm every few hundred to few thousand values; these were chosen to
raise few on the tuning streams of `python -m benchmarks.evidence detectors --tune`.
"""

from typing import Any, Final, Protocol, cast


class RiverDetector(Protocol):
    """What is used of River's."""

    drift_detected: bool

    def update(self, x: Any) -> Any:
        """Take in a value."""


# KSWIN draws its sample of the past by chance: always the same one.
SEED: Final = 0


def adwin() -> RiverDetector:
    """A. Bifet and R. Gavaldà, "Learning from time-changing data with adaptive windowing", 2007."""
    from river.drift import ADWIN

    return cast(RiverDetector, ADWIN(delta=0.002))


def page_hinkley() -> RiverDetector:
    """E. S. Page, "Continuous inspection schemes", 1954."""
    from river.drift import PageHinkley

    return cast(
        RiverDetector,
        PageHinkley(min_instances=100, delta=0.02, threshold=25.0, alpha=1.0, mode="up"),
    )


def ddm() -> RiverDetector:
    """J. Gama et al., "Learning with drift detection", 2004."""
    from river.drift.binary import DDM

    return cast(RiverDetector, DDM(warm_start=200, warning_threshold=2.5, drift_threshold=3.5))


def eddm() -> RiverDetector:
    """M. Baena-García et al., "Early drift detection method", 2006."""
    from river.drift.binary import EDDM

    return cast(RiverDetector, EDDM(warm_start=200, alpha=0.9, beta=0.8))


def hddm_a() -> RiverDetector:
    """I. Frías-Blanco et al., "Online and non-parametric drift detection methods", 2014."""
    from river.drift.binary import HDDMA

    return cast(RiverDetector, HDDMA(drift_confidence=0.001))


def hddm_w() -> RiverDetector:
    """The same paper's test of weighted means."""
    from river.drift.binary import HDDMW

    return cast(RiverDetector, HDDMW(drift_confidence=0.0001, lambda_val=0.01))


def kswin() -> RiverDetector:
    """C. Raab et al., "Reactive soft prototype computing for concept drift streams", 2020."""
    from river.drift import KSWIN

    return cast(RiverDetector, KSWIN(alpha=1e-4, window_size=300, stat_size=100, seed=SEED))
