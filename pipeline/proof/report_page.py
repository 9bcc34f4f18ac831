"""The report of an evaluation as an HTML page that loads nothing: texts, tables, plots and pictures."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import metadata

import numpy as np

from pipeline.proof import plots
from pipeline.proof.clicks import RULES, Clicks
from pipeline.proof.confusion import BACKGROUND
from pipeline.proof.evaluate import Comparison, Evaluation
from pipeline.proof.intervals import RESAMPLES
from pipeline.proof.mistakes import EXPLAINED, MISTAKES, RIGHT
from pipeline.proof.pictures import COLORS, Picture

_MOST_CONFUSIONS = 10
_TILES = ("AP", "AP50", "mask_AP", "mask_AP50", "boundary_AP", "clicks_saved")
_TITLES = {
    "AP": "box AP",
    "AP50": "box AP50",
    "mask_AP": "mask AP",
    "mask_AP50": "mask AP50",
    "boundary_AP": "boundary AP",
    "clicks_saved": "clicks saved",
}
_CLASS_FIGURES = {"boxes": ("AP", "AP50", "AR100"), "masks": ("AP", "AP50", "AR100"), "boundaries": ("AP",)}
_SINGULAR = {"boxes": "box", "masks": "mask", "boundaries": "boundary"}
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: #1f2933; font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 28px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 4px 0 10px; max-width: 85ch; }
.dim { color: #52606d; font-size: 13px; }
section { background: #fff; border: 1px solid #e1e6ec; border-radius: 8px; padding: 18px 22px; margin-top: 18px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 16px; }
.tile { background: #fff; border: 1px solid #e1e6ec; border-radius: 8px; padding: 12px 16px; flex: 1 1 150px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; margin: 6px 0; }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #e9edf2; white-space: nowrap; }
th { color: #52606d; font-weight: normal; }
th:first-child, td:first-child { text-align: left; }
tr.all td { font-weight: bold; }
td.text, th.text { text-align: left; white-space: normal; }
.columns { display: flex; flex-wrap: wrap; gap: 8px 36px; align-items: flex-start; }
.bar { display: inline-block; height: 9px; background: #2563eb; border-radius: 2px; vertical-align: middle; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 5px -1px 12px; }
.note { background: #fff8e6; border-color: #f3dfa6; }
.gallery { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 18px 16px; align-items: end; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; border-radius: 4px; display: block; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
img { max-width: 100%; }
code { font-size: 13px; overflow-wrap: anywhere; }
ul { margin: 4px 0; padding-left: 20px; }
"""


def render_html(evaluation: Evaluation, pictures: Sequence[Picture]) -> str:
    """Return the report as one HTML page that loads nothing.

    Args:
        evaluation: What was found out.
        pictures: The worst images, drawn.
    """
    parts = [
        _head(evaluation),
        _notes(evaluation),
        _comparison(evaluation.comparison),
        _mistakes(evaluation),
        _clicks(evaluation.clicks, evaluation.min_score),
        _gallery(pictures),
        _scores(evaluation),
        _confusion(evaluation),
        _calibration(evaluation),
        _classes(evaluation),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation of {escape(str(evaluation.predictions))}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{''.join(part for part in parts)}</main></body></html>\n"
    )


def _section(title: str, body: str, more: str = "") -> str:
    return f"<section{more}><h2>{escape(title)}</h2>\n{body}</section>\n"


def _image(data: str, alt: str) -> str:
    return f'<img src="{data}" alt="{escape(alt)}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = ()) -> str:
    """Return a table; cells are HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f"<{tag}{' class=text' if column in text_columns else ''}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"


def _points(value: float, digits: int = 1) -> str:
    """Return a part as points of a hundred."""
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _head(evaluation: Evaluation) -> str:
    pair = evaluation.pair
    objects = int((~pair.truth.crowd).sum())
    try:
        version = f"Made by groundlabel {metadata.version('groundlabel')}."
    except metadata.PackageNotFoundError:
        version = ""  # run from its source folder, not installed
    tiles = []
    for name in _TILES:
        if name in evaluation.figures:
            one = evaluation.intervals[name]
            tiles.append(
                f'<div class="tile"><span class="dim">{_TITLES[name]}</span><b>{_points(one.value)}</b>'
                f'<span class="dim">{_points(one.low)} to {_points(one.high)}</span></div>'
            )
    return (
        f"<h1>How good are these labels?</h1>"
        f"<p>Labels <code>{escape(str(evaluation.predictions))}</code><br>"
        f"judged by <code>{escape(str(evaluation.truth))}</code></p>"
        f'<p class="dim">{len(pair.images)} images, {objects} objects of {len(pair.names)} classes, '
        f"{len(pair.found)} labels. All figures are points of 100; below each stands its 95 % interval over images. "
        f'{version}</p><div class="tiles">{"".join(tiles)}</div>\n'
    )


def _notes(evaluation: Evaluation) -> str:
    notes = [*evaluation.pair.notes, *(evaluation.comparison.notes if evaluation.comparison else ())]
    if not notes:
        return ""
    lines = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return _section("To know", f"<ul>{lines}</ul>", ' class="note"')


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    rows = []
    for name, one in comparison.figures.items():
        interval = f"{_points(one.change.low)} to {_points(one.change.high)}"
        change = f"{round(100 * one.change.value, 1) + 0.0:+.1f}"
        cells = (escape(name), _points(one.here), _points(one.there), change, interval, _points(one.share_higher, 0))
        rows.append((*cells, one.verdict))
    head = ("figure", "these", "the others", "change", "95 % interval", "higher in % of resamples", "verdict")
    body = (
        f"<p>The others are <code>{escape(str(comparison.origin))}</code>. Both were judged on the same {RESAMPLES} "
        "resamples of the images; the verdict is “better” or “worse” only where the interval of the change leaves out "
        "0.</p>"
        + _table(head, rows, (6,))
        + _image(plots.plot_comparison(comparison.figures), "changes with intervals")
    )
    return _section("Better than the others?", body)


def _mistakes(evaluation: Evaluation) -> str:
    kinds = list(evaluation.mistakes)
    head = [
        "mistake",
        *(f"{kind}: how many" for kind in kinds),
        *(f"{kind}: AP50 cost" for kind in kinds),
        "what it is",
    ]
    rows = []
    for name in MISTAKES:
        counts = [str(one.counts[name]) for one in evaluation.mistakes.values()]
        costs = [_points(one.costs[name]) for one in evaluation.mistakes.values()]
        rows.append((_key(name) + name, *counts, *costs, escape(EXPLAINED[name])))
    for name, field in (("all wrong labels", "false_positives"), ("all objects not found", "false_negatives")):
        costs = [_points(getattr(one, field)) for one in evaluation.mistakes.values()]
        rows.append((name, *("" for _ in kinds), *costs, "together, whatever the kind"))
    body = (
        "<p>Each kind's cost is the AP50 that would be gained if all its mistakes, and no others, were mended. The "
        "costs do not add up (TIDE, Bolya et al. 2020).</p>"
        + _image(plots.plot_mistakes(evaluation.mistakes), "AP50 lost by kind of mistake")
        + _table(head, rows, (len(head) - 1,))
    )
    return _section("What is wrong, and what it costs", body)


def _key(kind: str) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*COLORS[kind])
    return f'<span class="key" style="background:{color};margin-left:0"></span>'


def _clicks(clicks: Clicks, min_score: float) -> str:
    rows = [
        ("drawing everything from nothing", str(clicks.from_nothing), ""),
        ("working from these labels", str(clicks.from_labels), ""),
        ("labels left as they are", "", str(clicks.untouched)),
        ("labels deleted", "", str(clicks.deleted)),
        ("labels given another class", "", str(clicks.reclassed)),
        ("labels whose shape is mended", "", str(clicks.mended)),
        ("objects drawn", "", str(clicks.drawn)),
    ]
    best = min(clicks.choices, key=lambda choice: choice.clicks, default=None)
    advice = ""
    if best is not None and best.clicks < clicks.from_labels:
        advice = (
            f"<p>With only the labels that score {best.min_score:.2f} or more it would be {best.clicks} clicks "
            f"({_points(1 - best.clicks / clicks.from_nothing)} % saved).</p>"
        )
    verb = "save" if clicks.saved >= 0 else "cost"
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in RULES)
    score = f" of score {min_score:g} and more" if min_score else ""
    body = (
        f"<p>These labels{score} {verb} {_points(abs(clicks.saved))} % of the clicks on "
        f"{'masks' if clicks.by_masks else 'boxes'}.</p>{advice}<div class=columns><div>"
        + _table(("", "clicks", "how many"), rows)
        + "</div>"
        + (_image(plots.plot_clicks(clicks, min_score), "clicks over the lowest score") if clicks.choices else "")
        + f"</div><details><summary>How clicks are counted</summary><ul>{rules}</ul></details>"
    )
    return _section("Edits saved", body)


def _gallery(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return _section("The images with the most work left", "<p>No image needs a click.</p>")
    shown = []
    for picture in pictures:
        counts = ", ".join(f"{count} {kind}" for kind, count in picture.counts.items() if count)
        note = f"<br>{escape(picture.note)}" if picture.note else ""
        size = f'width="{picture.size[0]}" height="{picture.size[1]}"'
        shown.append(
            f'<figure><img src="{picture.data}" {size} alt="{escape(picture.path)}"><figcaption>'
            f"<b>{escape(picture.path)}</b> · {picture.clicks} clicks<br>"
            f'<span class="dim">{counts}{note}</span></figcaption></figure>'
        )
    keys = "".join(f'<span style="white-space:nowrap">{_key(kind)}{kind}&ensp;</span>' for kind in (RIGHT, *MISTAKES))
    return _section("The images with the most work left", f"<p>{keys}</p><div class=gallery>{''.join(shown)}</div>")


def _scores(evaluation: Evaluation) -> str:
    names = list(evaluation.scores["boxes"].figures)
    rows = [[escape(kind), *(_points(one.figures[name]) for name in names)] for kind, one in evaluation.scores.items()]
    fit = ""
    if evaluation.outlines is not None:
        fit = (
            f"<p>{evaluation.outlines.pairs} labels lie on an object (IoU .5 and more): their masks have a mean IoU of "
            f"{_points(evaluation.outlines.mask_iou)}, the rims of these masks "
            f"{_points(evaluation.outlines.boundary_iou)} (boundary IoU, Cheng et al. 2021).</p>"
        )
    body = (
        "<p>As COCO has them: AP is the mean over IoU .5 to .95, AR the recall with so many labels an image; small is "
        "below 32², large from 96² square pixels.</p>"
        + _table(["", *names], rows)
        + fit
        + _image(plots.plot_precision_recall(evaluation.scores), "precision over recall")
    )
    return _section("Average precision and recall", body)


def _confusion(evaluation: Evaluation) -> str:
    names = [*evaluation.pair.names, BACKGROUND]
    wrong = evaluation.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong[:-1, :-1].ravel(), kind="stable")[:_MOST_CONFUSIONS]
    pairs = [divmod(int(place), len(names) - 1) for place in order]
    rows = [
        (escape(names[row]), escape(names[column]), str(wrong[row, column]))
        for row, column in pairs
        if wrong[row, column]
    ]
    table = _table(("is", "labelled as", "how often"), rows, (1,)) if rows else "<p>No class was taken for another.</p>"
    left_out = len(names) - 1 - plots.MOST_CELLS
    more = f" The {plots.MOST_CELLS} classes with most of it are shown, {left_out} are not." if left_out > 0 else ""
    body = (
        "<p>Label and object belong together from IoU .5 on, first within a class. “background” is no object, or no "
        f"label.{more}</p><div class=columns>"
        + _image(plots.plot_confusion(evaluation.confusion, evaluation.pair.names), "confusion matrix")
        + f"<div>{table}</div></div>"
    )
    return _section("What is taken for what", body)


def _calibration(evaluation: Evaluation) -> str:
    calibration = evaluation.calibration
    if calibration is None or not calibration.bins:
        return ""
    head = ("score", "labels", "mean score", "% right")
    rows = [
        (f"{one.low:.1f}–{one.high:.1f}", str(one.labels), f"{one.mean_score:.2f}", _points(one.share_right))
        for one in calibration.bins
    ]
    body = (
        "<p>A label is right where its box has IoU .5 with an object of its class. The expected calibration error, the "
        f"mean gap between score and share, is {_points(calibration.expected_error)}.</p><div class=columns>"
        + _image(plots.plot_calibration(calibration), "share of right labels over score")
        + f"<div>{_table(head, rows)}</div></div>"
    )
    return _section("Do scores mean what they say?", body)


def _classes(evaluation: Evaluation) -> str:
    shown = [(kind, name) for kind, names in _CLASS_FIGURES.items() if kind in evaluation.scores for name in names]
    head = ["class", "objects", "labels", "", *(f"{_SINGULAR[kind]} {name}" for kind, name in shown)]
    rows = []
    for row, one in enumerate(evaluation.scores["boxes"].by_class):
        value = one.figures["AP"]
        bar = "" if math.isnan(value) else f'<span class="bar" style="width:{60 * value:.0f}px"></span>'
        cells = [_points(evaluation.scores[kind].by_class[row].figures[name]) for kind, name in shown]
        rows.append((escape(one.name), str(one.objects), str(one.labels), bar, *cells))
    return _section("Class by class", f'<div style="overflow-x:auto">{_table(head, rows, (3,))}</div>')
