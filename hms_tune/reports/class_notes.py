"""What a reader checks first to recognise each class, in the words of the ACNS terminology of 2021.

Source: Hirsch et al., "American Clinical Neurophysiology Society's Standardized Critical Care EEG
Terminology: 2021 Version", J Clin Neurophysiol 38(1), 2021.
"""

from __future__ import annotations

WHERE_TO_LOOK = {
    "Seizure": (
        "Look for change: a rhythm that speeds up or slows by half a hertz at least twice, grows, or "
        "spreads along a chain; or one that runs at more than 2.5 Hz throughout the ten seconds. In "
        "the ten-minute spectrogram it is a bright band that begins, bends and ends."
    ),
    "LPD": (
        "Compare blue with red: sharp discharges that come back every 0.5 to 2 s on one side only, "
        "about twice as high there, with a calm line between them. Find where two neighbouring lines "
        "point towards each other: there the field is largest."
    ),
    "GPD": (
        "Run down one vertical: the same sharp or triphasic discharge stands in all chains at nearly "
        "the same moment, on both sides alike, 0.5 to 2.25 times a second, with a calm line between. "
        "A lag from front to back is common."
    ),
    "LRDA": (
        "Compare blue with red: slow waves like a sine, about 0.6 to 2.25 Hz, one after the other "
        "without a pause, on one side. The spectrogram is bright below 3 Hz in the chains of that "
        "side alone."
    ),
    "GRDA": (
        "Slow waves like a sine on both sides at once, without a pause, often largest in front "
        "(Fp1–F3, Fp2–F4). Unlike GPD nothing is sharp and the line never rests; unlike eye movements "
        "it does not stay in the first lines of the chains."
    ),
    "Other": (
        "What is none of these: background, artefact, discharges without a rhythm. Look at the EKG "
        "first (do 'discharges' come with the heart?), then at the frontal lines (eyes), then for "
        "muscle, which thickens the temporal lines."
    ),
}
"""For each class, what a reader checks first."""

KINDS = {
    "idealized": "more than 80 % of the experts agree",
    "proto": "about half see one pattern, the others see none: poorly formed, shifting versions of it",
    "edge": "the experts are split between two patterns, because it has features of both",
}
"""How experts agree on a window, for windows with enough of them."""

FIRST_LOOKS = (
    "Agreement before class: windows with few experts and windows with ten or more are labelled "
    "differently. Judge a model on both.",
    "The patients with the most recordings: a model may learn them instead of the pattern, so folds go by "
    "patient.",
    "The channels with gaps, flat lines and millivolts in the table above: a spectrogram averaged "
    "over a chain takes them on silently.",
    "Proto and edge cases: there the best prediction is not one class, and the error that is left is the "
    "experts' own.",
    "What the model gets most wrong: `hms-tune data show {root} EEG_ID --html page.html` shows the window, "
    "its ten minutes and its votes.",
)
"""What to look at once the page on the folder ``root`` has been read."""
